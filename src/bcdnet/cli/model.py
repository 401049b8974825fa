"""What a command means by MODEL: a trained model (file or run folder), the name of a timm model, a packed file, or
`hf-hub:ORG/REPO`.
"""

from __future__ import annotations

import difflib
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcdnet.errors import BcdnetError
from bcdnet.hub import MODEL_FILE, PACKED_FILE, download, is_hub_name
from bcdnet.image_files import is_pipe

if TYPE_CHECKING:
    from torch import nn

    from bcdnet.program import Program

# What --help says, alone or beside what is a command's own.
ANY_MODEL = "A packed file, a model file, a run folder, a shipped model's name, or hf-hub:ORG/REPO."
Model = Annotated[str, typer.Argument(help=ANY_MODEL)]
ModelOrName = Annotated[str, typer.Argument(help=f"{ANY_MODEL} Or a network of timm's.")]
InputSize = Annotated[
    tuple[int, int, int] | None, typer.Option(help="Channels, height and width; the model's own where left out.")
]
FRESH = {"weights": "fresh"}  # the provenance of what no one trained
MOST_PIXELS = 357_913_941  # in an image; beyond, Pillow decodes nothing


@dataclass(frozen=True)
class Found:
    """A network in eval mode; class names (none for fresh weights), preprocessing (timm's keys) and origin."""

    module: nn.Module
    labels: list[str]
    preprocess: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.preprocess["input_size"]
        return channels, height, width


def find_model(name: str, size: tuple[int, int, int] | None = None, **settings: Any) -> Found:
    """The trained model `load_trained` finds by this name, or a named timm model with fresh weights.

    `size`: channels, height and width instead of the model's own. `settings`: keyword arguments of a named model; None
    stands for its default. Raises BcdnetError for an unknown name and settings that do not fit, CheckpointError for a
    file that holds no model.
    """
    from bcdnet.compiler import load_trained
    from bcdnet.models import VARIANTS
    from bcdnet.pretrained import is_packed

    settings = {key: value for key, value in settings.items() if value is not None}
    if is_packed(name) or Path(name).exists() or "/" in name or name.endswith(".safetensors"):
        if settings:
            raise BcdnetError(f"{name} is a file with a fixed network: leave {' and '.join(settings)} to named models")
        loaded = load_trained(name)
        preprocess = loaded.preprocess | ({"input_size": list(size)} if size else {})
        return Found(loaded.model, loaded.labels, preprocess, loaded.provenance)
    make, preset = _of_our_own(name) if name in VARIANTS else _of_timm(name)
    channels, height, width = size or preset["input_size"]
    if channels != 3:
        settings["in_chans"] = channels
    try:
        module = make(**settings).eval()
    except TypeError as error:
        raise BcdnetError(f"{name} does not take {' and '.join(settings)}") from error
    except RuntimeError as error:  # more memory than there is
        raise BcdnetError(f"{name}: cannot be made ({' '.join(str(error).split())})") from error
    constants = {key: preset[key] if channels == len(preset[key]) else [0.5] * channels for key in ("mean", "std")}
    preprocess = {**preset, **constants, "input_size": [channels, height, width]}
    return Found(module, [], preprocess, FRESH | {"model": name})


def _of_our_own(name: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """What makes the named network, and its preprocessing; without timm, whose import takes seconds."""
    from bcdnet.models import build, configure, default_preprocess

    return lambda **settings: build(configure(name, **settings)), default_preprocess(name)


def _of_timm(name: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """The same of a network of timm's. Raises BcdnetError if there is none."""
    import timm

    from bcdnet.models import VARIANTS
    from bcdnet.pretrained import list_pretrained

    try:
        known, found = timm.is_model(name), timm.get_pretrained_cfg(name)
    except RuntimeError:  # what is behind the point is none of its pretrained tags
        known = False
    if not known:
        near = difflib.get_close_matches(name, [*list_pretrained(), *VARIANTS], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BcdnetError(f"no model is called {name}, and there is no such file{hint}")
    preset = {"input_size": (3, 224, 224), "mean": (), "std": (), "interpolation": "bilinear", "crop_pct": 1.0}
    if found is not None:
        preset = {key: getattr(found, key) for key in preset}
    return functools.partial(timm.create_model, name), preset


def find_trained(name: str) -> Found:
    """`find_model` without the names of timm's models, whose fresh weights show nothing."""
    found = find_model(name)
    if found.provenance == FRESH | {"model": name}:
        raise BcdnetError(f"{name}: a network without training; give a run folder, a model file or a shipped name")
    return found


def model_files(name: str) -> list[Path]:
    """The files on this machine that `name` may mean, for an output not to take the place of one."""
    from bcdnet.pretrained import locate

    return [locate(name), Path(name) / MODEL_FILE]


def compile_found(found: Found, half: bool = False) -> Program:
    """The packed program, in memory, that says what it was made by; `half` as `bcdnet.compiler.export`'s."""
    from bcdnet import __version__
    from bcdnet.compiler import compile_module

    return compile_module(
        found.module,
        input_size=found.preprocess["input_size"],
        labels=found.labels,
        preprocess=found.preprocess,
        provenance=found.provenance | {"exported_by": f"bcdnet {__version__}"},
        half=half,
    )


def pack(found: Found, output: Path, half: bool = False) -> Path:
    """Compile to a packed file."""
    from bcdnet.program import write_program

    return write_program(compile_found(found, half), output)


def check_trained(name: str) -> None:
    """Raise BcdnetError, which says what to give instead, unless `name` is a model file or a run folder."""
    from bcdnet.pretrained import list_pretrained
    from bcdnet.program.file import is_safetensors

    path = Path(name)
    if not name or not path.exists():
        near = difflib.get_close_matches(name, list_pretrained(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; give a packed file, a model file or a run folder"
        raise BcdnetError(f"no trained model is called {name!r}, and there is no such file{hint}")
    if (path / "recipe.yaml").is_file() and not (path / MODEL_FILE).exists():
        raise BcdnetError(f"{name}: the run has left no {MODEL_FILE} yet; bcdnet train --resume finishes it")
    if is_pipe(path):
        raise BcdnetError(f"{name}: is a pipe or a device; write it to a file")
    if not is_safetensors(path / MODEL_FILE if path.is_dir() else path):
        raise BcdnetError(f"{name}: is no packed file, model file or run folder")


@contextmanager
def packed_file(name: str) -> Iterator[Path]:
    """A packed file: the one that is given, a shipped one by its name, or a trained model packed for the while."""
    from bcdnet.pretrained import SUFFIX, is_packed, locate

    if is_hub_name(name):
        name = str(download(name, [PACKED_FILE, MODEL_FILE]))
    if is_packed(name):
        yield locate(name)
        return
    check_trained(name)
    with tempfile.TemporaryDirectory() as folder:
        yield pack(find_model(name), Path(folder) / f"model{SUFFIX}")
