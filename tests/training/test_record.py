"""What a run tells of itself: its rows, its results and its bar; and whether it does what it was told."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.exc import InductorError

from bcdnet.errors import RecipeError
from bcdnet.models import load_model
from bcdnet.training import phase as phase_module
from bcdnet.training import run as run_module
from bcdnet.training.callbacks import StepProgress
from bcdnet.training.checkpoint import write_checkpoint
from bcdnet.training.log import read_rows
from bcdnet.training.loss import TrainingLoss
from bcdnet.training.module import Plan, StepModule, batch_sums
from bcdnet.training.recipe import Recipe, StepConfig
from bcdnet.training.run import train
from bcdnet.training.run_folder import environment
from bcdnet.training.schedule import learning_rate

MakeRecipe = Callable[..., Recipe]
STEP = {"name": "only", "iterations": 4, "batch_size": 128, "lr": 2e-3}
LAYERS = {"width": 1 / 16, "layers": [1, 1, 1, 1]}
TWIN = {"name": "resnet18_twin_small", **LAYERS}


def test_figures_have_the_units_that_they_are_said_to_have(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right: list[float] = []

    def watched(*given: Any) -> Any:
        result = batch_sums(*given)
        right.append(float(result[1]))
        return result

    monkeypatch.setattr("bcdnet.training.module.batch_sums", watched)
    found = train(make_recipe(steps=[STEP], model=TWIN))["only"]
    row = read_rows(tmp_path / "run" / "metrics.csv")[-1]
    assert float(row["train_top1"]) == pytest.approx(100 * sum(right) / (4 * 128), rel=1e-4)
    last = learning_rate(StepConfig("only", 2e-3, iterations=4), 3, 4, 0)
    assert float(row["lr"]) == pytest.approx(last, rel=1e-4)
    network = load_model(tmp_path / "run").model
    assert found["params"] == sum(parameter.numel() for parameter in network.parameters())
    # Both are rounded.
    slowest, quickest = (4 * 128 / (found["train_seconds"] + change) for change in (0.05, -0.05))
    assert slowest - 0.1 <= found["train_images_per_second"] <= abs(quickest) + 0.1


def test_evaluation_is_no_training_time(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = phase_module.evaluate

    def slow(*given: Any) -> Any:
        time.sleep(1)
        return evaluate(*given)

    monkeypatch.setattr(phase_module, "evaluate", slow)
    begun = time.perf_counter()
    found = train(make_recipe(steps=[{**STEP, "iterations": 12}], model=TWIN))["only"]  # two epochs
    assert found["train_seconds"] < time.perf_counter() - begun - 1.9


@pytest.mark.parametrize(("done", "left"), [(0, 11), (4, 7), (11, 2), (12, 1)])
def test_the_bar_is_as_long_as_what_is_left_of_the_epoch(done: int, left: int) -> None:
    module: Any = SimpleNamespace(plan=Plan(13, 11), iteration=done, config=SimpleNamespace(accumulate=2))
    assert StepProgress(module).total_train_batches == 2 * left


def test_layout_and_precision_reach_the_network(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Any] = set()
    loss, step = TrainingLoss.forward, StepModule.training_step

    def judged(self: TrainingLoss, logits: torch.Tensor, *given: Any) -> Any:
        seen.add(logits.dtype)
        return loss(self, logits, *given)

    def stepped(self: Any, *given: Any) -> Any:
        kernels = (state["stages.0.0.conv.weight"] for state in (self.model.state_dict(), self.average.average))
        seen.update(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
        return step(self, *given)

    monkeypatch.setattr(TrainingLoss, "forward", judged)
    monkeypatch.setattr(StepModule, "training_step", stepped)
    trainer = {"accelerator": "cpu", "channels_last": True, "precision": "bf16"}
    train(make_recipe(steps=[{**STEP, "iterations": 1, "ema": 0.9}], model=TWIN, trainer=trainer))
    assert seen == {torch.bfloat16, True}


def test_a_teacher_that_the_run_trained_itself_may_not_change_either(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    short = {**STEP, "iterations": 1}
    teacher = {"model": TWIN["name"], "kwargs": LAYERS, "train": {**short, "name": "teacher"}}
    train(make_recipe("other", steps=[short], model=TWIN, seed=9))
    recipe = make_recipe(steps=[STEP], model=TWIN, teacher=teacher)

    def stopped(folder: Path, phase: int, *rest: Any) -> None:
        write_checkpoint(folder, phase, *rest)
        if phase == 1:
            raise RuntimeError("stopped")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "write_checkpoint", stopped)
        with pytest.raises(RuntimeError, match="stopped"):
            train(recipe)
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "run" / "teacher.safetensors")
    with pytest.raises(RecipeError, match="not the network that taught"):
        train(recipe, resume=True)


@pytest.mark.parametrize(
    ("file", "typed"),
    [
        ("/usr/bin/bcdnet", "bcdnet"),
        ("/lib/bcdnet/__main__.py", "bcdnet"),
        ("examples/demo.py", "python examples/demo.py"),
        ("/home/me/demo.py", "python demo.py"),
    ],
)
def test_the_command_on_record_is_what_may_be_typed(file: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [file, "a b"])
    assert environment(0)["command"] == f"{typed} 'a b'"


def test_a_compiler_that_is_not_there_is_told_in_a_line(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: StepModule, batch: Any, index: int) -> None:
        raise InductorError(RuntimeError("No working C++ compiler found\n\nmore"), None)

    monkeypatch.setattr(StepModule, "training_step", failing)
    with pytest.raises(
        RecipeError, match=r"^trainer.compile: .* C\+\+ compiler found; trainer.compile=false trains wi"
    ):
        train(make_recipe(steps=[STEP], model=TWIN))
