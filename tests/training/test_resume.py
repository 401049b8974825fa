"""A real run that is stopped in several ways, against one that was never interrupted: the same bits."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bcdnet.training import run as run_module
from bcdnet.training.callbacks import Recorder
from bcdnet.training.checkpoint import checkpoints
from bcdnet.training.recipe import Recipe
from bcdnet.training.recipe_file import to_yaml
from bcdnet.training.run import train
from bcdnet.training.run_folder import RunFolder

# Digits in batches of 128 are 11 iterations per epoch; a checkpoint every 4 and after an epoch's evaluation, most of
# them between two rows.
STEP = {"iterations": 20, "batch_size": 128, "lr": 2e-3, "ema": 0.9, "latent_rms": 0.05}
CHANGES: dict[str, Any] = {
    "steps": [{"name": "step1", **STEP, "weight_decay": 0.01}, {"name": "step2", "weight_bits": 1, **STEP}],
    "trainer": {"accelerator": "cpu", "checkpoint_every": 4, "log_every": 3},
}
NONE_DUE = {**CHANGES["trainer"], "checkpoint_every": 1000}
SHORT = [{**STEP, "name": "step1", "iterations": 2}]
# In step 1 within its first epoch; in step 2, by a resumed process, between two checkpoints of its second.
# What each signal leaves as the exit status: 0 would tell a scheduler that the run is complete.
MOMENTS = (("step1", 6, signal.SIGKILL, -signal.SIGKILL), ("step2", 14, signal.SIGTERM, 143))


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    text = path.read_text()  # at once: from a file that grows as it reads, csv takes a row for the names of columns
    return [row for row in csv.DictReader(text.splitlines()) if row["iteration"]]


def run_until(recipe: Path, step: str, iteration: int, stop: signal.Signals, run: Path, *arguments: str) -> int:
    """Start the command, stop it and its workers once the row of that iteration is there; return its exit status."""
    # What runs in the background may have been told to ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from bcdnet.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", str(recipe), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while process.poll() is None:
            if any(row["step"] == step and int(row["iteration"]) >= iteration for row in rows(run)):
                break
            time.sleep(0.005)
        assert process.poll() is None, f"ended before {step} {iteration}: {process.stderr and process.stderr.read()}"
    finally:
        os.killpg(process.pid, stop)  # as a terminal does
        process.communicate(timeout=180)  # a busy machine takes its time
    return process.returncode


def check_weights(whole: Path, resumed: Path) -> None:
    for name in ("step1", "step2", "model"):
        expected, actual = load_file(whole / f"{name}.safetensors"), load_file(resumed / f"{name}.safetensors")
        assert expected.keys() == actual.keys()
        different = [key for key in expected if not torch.equal(expected[key], actual[key])]
        assert not different, (name, different)


def check_same(whole: Path, resumed: Path) -> None:
    check_weights(whole, resumed)
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows(run)] for run in (whole, resumed)]
    assert without_time[0] == without_time[1]


@pytest.mark.slow
def test_stopped_twice_and_resumed_gives_the_same_bits(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(make_recipe("whole", **CHANGES))
    recipe = make_recipe("killed", **CHANGES)
    file = tmp_path / "tiny.yaml"
    file.write_text(to_yaml(recipe))
    for number, (step, iteration, stop, status) in enumerate(MOMENTS):
        assert run_until(file, step, iteration, stop, killed, *(["--resume"] if number else [])) == status
        assert not (killed / "model.safetensors").exists()
    said: list[str] = []
    train(recipe, resume=True, say=said.append)
    assert "in step2 at iteration" in said[0]
    check_same(whole, killed)


ODD = {  # batches of an epoch
    **CHANGES,
    "steps": [{**step, "iterations": 13} for step in CHANGES["steps"]],
    "validation": {"every": 2},
    "trainer": NONE_DUE,
}


@pytest.fixture(scope="module")
def whole(recipe_into: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "draw_curves", lambda *_: None)
        train(recipe_into(folder, **ODD))
    return folder


@pytest.mark.parametrize(
    ("hook", "iteration", "number", "raised"),
    # Within an epoch; in its last batch, before its row and evaluation; after them.
    [
        ("on_train_batch_end", 6, signal.SIGTERM, SystemExit),
        ("on_train_batch_end", 11, signal.SIGTERM, SystemExit),
        pytest.param("on_train_epoch_end", 11, signal.SIGTERM, SystemExit, marks=pytest.mark.slow),
        pytest.param("on_train_batch_end", 6, signal.SIGINT, KeyboardInterrupt, marks=pytest.mark.slow),
    ],
)
def test_a_signal_keeps_what_was_trained(
    hook: str,
    iteration: int,
    number: signal.Signals,
    raised: type[BaseException],
    whole: Path,
    make_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a scheduler that takes the machine sends it, or a person with Ctrl-C, with no checkpoint due."""
    torch.set_num_threads(1)
    stopped = make_recipe("stopped", **ODD)
    original = getattr(Recorder, hook)

    def terminated(self: Recorder, trainer: Any, module: Any, *arguments: Any) -> None:
        original(self, trainer, module, *arguments)
        if module.iteration == iteration:
            signal.raise_signal(number)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, hook, terminated)
        patched.setattr(signal, "default_int_handler", signal.getsignal(signal.SIGINT))  # where a parent ignores it
        with pytest.raises(raised) as stop:
            train(stopped)
    assert number == signal.SIGINT or stop.value.args == (143,)
    folder = Path(stopped.run_dir)
    assert [int(path.stem[-9:]) for path in checkpoints(folder / "checkpoints")] == [iteration]
    train(stopped, resume=True)
    check_same(whole, folder)


def test_a_second_ctrl_c_does_not_wait(make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(**{**CHANGES, "trainer": NONE_DUE})
    original = Recorder.on_train_batch_end

    def interrupted(self: Recorder, trainer: Any, module: Any, *arguments: Any) -> None:
        original(self, trainer, module, *arguments)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupted)
    monkeypatch.setattr(signal, "default_int_handler", signal.getsignal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    assert not checkpoints(Path(recipe.run_dir) / "checkpoints")


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_leaves_the_workers_to_the_training(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """It reaches them too, which decode the batch that the training waits for."""
    recipe = make_recipe("stopped", **{**CHANGES, "trainer": NONE_DUE})
    file = tmp_path / "tiny.yaml"
    file.write_text(to_yaml(recipe))
    arguments = ("data.in_memory=false", "data.workers=1")
    status = run_until(file, "step1", 6, signal.SIGINT, tmp_path / "stopped", *arguments)
    assert status == 130
    assert len(checkpoints(tmp_path / "stopped" / "checkpoints")) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"resumed": 3}', '{"seed": 3}'])
def test_a_damaged_record_of_versions_stops_no_run(
    make_recipe: Callable[..., Recipe], tmp_path: Path, content: str
) -> None:
    recipe = make_recipe(steps=SHORT)
    folder = RunFolder(recipe.run_dir)
    for resume in (False, True):
        folder.open(recipe, resume)
        folder.close()
        if not resume:
            folder.environment.write_text(content)
    record = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(record["resumed"]) == 1 and record.get("seed") == (3 if "seed" in content else None)


def test_a_run_goes_on_where_memory_is_less(
    make_recipe: Callable[..., Recipe], begin_and_stop: Callable[[Recipe], None], tmp_path: Path
) -> None:
    train(make_recipe("whole"))
    begin_and_stop(make_recipe("stopped"))
    less = {**CHANGES["trainer"], "log_every": 1, "grad_checkpointing": True}
    train(make_recipe("stopped", trainer=less), resume=True)
    check_weights(tmp_path / "whole", tmp_path / "stopped")


def test_tasks_of_an_allocation_are_none_of_one_process(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = {"NTASKS": "4", "JOB_NAME": "x", "JOB_ID": "12", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**slurm, "NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train(make_recipe(steps=SHORT))
