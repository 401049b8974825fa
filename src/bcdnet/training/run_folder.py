"""What a run leaves behind, file by file, and what it was run with."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from bcdnet import __version__
from bcdnet.errors import CheckpointError, RecipeError
from bcdnet.files import write_text
from bcdnet.machine import processor
from bcdnet.training.recipe import Recipe
from bcdnet.training.recipe_file import differences, load_recipe, to_yaml

PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "kornia", "numpy", "pyarrow", "scikit-learn")
# A resumed run may use other paths and another machine, but has to learn the same.
MAY_CHANGE = (
    "run_dir",
    "name",
    "model.checkpoint",
    "data.path",
    "data.workers",
    "data.check",
    "data.in_memory",
    "teacher.checkpoint",
    "trainer.accelerator",
    "trainer.channels_last",
    "trainer.compile",
    "trainer.compile_mode",
    "trainer.grad_checkpointing",
    "trainer.checkpoint_every",
    "trainer.log_every",
)


class RunFolder:
    """The paths of a run, and its small files.

    recipe.yaml (resolved), environment.json, metrics.csv, metrics.json, curves.png, tensorboard/, checkpoints/, one
    .safetensors for each finished step (and a teacher's), and model.safetensors, the last step's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.rows = self.path / "metrics.csv"
        self.metrics = self.path / "metrics.json"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model.safetensors"
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def weights(self, name: str) -> Path:
        """The model file of a finished step."""
        return self.path / f"{name}.safetensors"

    def results(self, steps: Iterable[str]) -> dict[str, Any]:
        """The figures in metrics.json, by step. Raises CheckpointError where it lacks those of one of `steps`."""
        try:
            figures: dict[str, Any] = json.loads(self.metrics.read_text(encoding="utf-8"))
            for step in steps:
                float(figures[step]["epochs"]), float(figures[step]["top1"])
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{self.metrics}: damaged ({error}); train --resume writes it again") from None
        return figures

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Raise RecipeError unless a run can start here (in an empty folder) or resume (a run of the same recipe)."""
        if resume:
            self._check_same(recipe)
        elif self.path.is_file():
            raise RecipeError(f"run_dir: {self.path} is a file; give a folder")
        elif self.path.is_dir() and any(not _passing(entry) for entry in self.path.iterdir()):
            raise RecipeError(
                f"run_dir: {self.path} is not empty; --resume continues the run in it, another run_dir starts a new one"
            )

    def _check_same(self, recipe: Recipe) -> None:
        if not self.recipe.is_file():
            raise RecipeError(f"--resume: there is no run in {self.path} (it has no recipe.yaml)")
        finished = sorted(path.name for path in self.path.glob("*.safetensors"))
        if finished and not any(self.checkpoints.glob("*")):  # else it would start anew, over them
            raise RecipeError(
                f"--resume: {self.path} has {', '.join(finished)} but no checkpoint to go on from; "
                "another run_dir starts a new run"
            )
        changed = differences(load_recipe(self.recipe), recipe, ignore=MAY_CHANGE)
        if changed:
            raise RecipeError(
                f"--resume: the run in {self.path} was started with another {', '.join(changed)}; "
                f"resume it with its own recipe, {self.recipe}"
            )

    def open(self, recipe: Recipe, resume: bool) -> None:
        """Write what tells where the run came from; of one that is resumed, how it goes on.

        Until `close` the folder is this process's alone. Raises RecipeError if it is another's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise RecipeError(f"run_dir: another process is training in {self.path}; wait for it, or stop it") from None
        except OSError:
            pass  # a file system without locks, or one that cannot be written, as the next line will say
        self.check(recipe, resume)  # again: another process may have come first, and be done
        write_text(self.recipe, to_yaml(recipe))  # first: a folder with a recipe in it can be resumed
        for partial in (*self.path.glob(".*.partial*"), *self.checkpoints.glob("*.partial*")):
            partial.unlink()
        record = environment(recipe.seed)
        if self.environment.is_file():
            record = _resumed(self.environment, record)
        write_text(self.environment, json.dumps(record, indent=2) + "\n")

    def close(self) -> None:
        """Let other processes train in the folder."""
        self._lock.release()


def _resumed(path: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The record of how a run began, `now` among those of how it went on; of one that is damaged, `now` alone."""
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        return {**begun, "resumed": [*begun.get("resumed", []), now]}
    except (ValueError, TypeError, AttributeError):
        return {"resumed": [now]}


def _passing(path: Path) -> bool:
    """Whether a file is a lock or what a killed process was writing."""
    return path.name == ".lock" or (path.name.startswith(".") and ".partial" in path.suffixes)


def environment(seed: int) -> dict[str, Any]:
    """Versions, machine, git state, command and seed, as plain JSON values."""
    versions = {"bcdnet": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(sys.argv[0]), *sys.argv[1:]]),
        "seed": seed,
        "versions": versions,
        "git": git_state(),
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        },
    }


def _program(file: str) -> list[str]:
    """What to type for a program that Python was given as `file`: of an absolute path the name."""
    if Path(file).name == "__main__.py":  # of `python -m bcdnet`
        return ["bcdnet"]
    typed = Path(file).name if Path(file).is_absolute() else file
    return ["python", typed] if typed.endswith(".py") else [Path(file).name]


def portable(value: Any, recipe: Recipe) -> Any:
    """JSON values without the places in which the data, the runs and checkpoints lay on the machine that made them."""
    places = _places(recipe)
    # In one pass, the longest first: what has been replaced is not looked at again.
    pattern = re.compile("|".join(re.escape(place) for place in sorted(places, key=len, reverse=True)) or "(?!)")

    def without(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: (command if key == "command" else without)(part) for key, part in item.items()}
        if isinstance(item, list):
            return [without(part) for part in item]
        return pattern.sub(lambda found: places[found[0]], item) if isinstance(item, str) else item

    def command(line: str) -> str:
        """Word by word, since quotes can stand inside of a path; of the recipe's own path the name is kept."""
        words = map(without, shlex.split(line))
        return shlex.join(f"recipes/{Path(word).name}" if is_recipe(word) else word for word in words)

    def is_recipe(word: str) -> bool:
        return Path(word).is_absolute() and word.endswith((".yaml", ".yml"))

    return without(value)


def _places(recipe: Recipe) -> dict[str, str]:
    """What stands for each absolute path of a recipe and the folders that its data and its run lie in."""
    places: dict[str, str] = {}
    for checkpoint in (recipe.model.checkpoint, recipe.teacher.checkpoint if recipe.teacher else None):
        if checkpoint and Path(checkpoint).is_absolute():
            places[checkpoint] = Path("runs", *Path(checkpoint).parts[-2:]).as_posix()
    for place, name in ((recipe.data.path.removeprefix("wds://"), "data"), (recipe.run_dir, "runs")):
        path = Path(place)
        if path.is_absolute():
            places.setdefault(place, f"{name}/{path.name}")
            if path.parent != Path(path.anchor):  # which stands in addresses too
                places.setdefault(f"{path.parent}{os.sep}", f"{name}/")
    return places


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree that runs, and whether it has uncommitted changes; None outside one."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # else the repository is that of a project that uses this one
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
