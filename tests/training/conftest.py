"""Tiny runs on scikit-learn's digits, which tests of training share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcdnet.training import run as run_module
from bcdnet.training.checkpoint import write_checkpoint
from bcdnet.training.recipe import Recipe
from bcdnet.training.recipe_file import resolve
from bcdnet.training.run import train


def tiny(run_dir: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of two steps that takes seconds: four channels wide, one of each kind of block, six iterations each."""
    step = {"iterations": 6, "batch_size": 128, "lr": 2e-3}
    return {
        "name": "tiny",
        "run_dir": str(run_dir),
        "seed": 3,
        "model": {"name": "bcdnet_b_r18_small", "width": 1 / 16, "layers": [1, 1, 1, 2], "mlp_blocks": 3},
        "data": {"path": "digits", "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35]},
        "augment": {"crop": "pad", "padding": 2},
        "steps": [{"name": "step1", **step, "weight_decay": 0.01}, {"name": "step2", "weight_bits": 1, **step}],
        "trainer": {"accelerator": "cpu", "checkpoint_every": 4, "log_every": 2},
        **changes,
    }


@pytest.fixture(scope="session")
def recipe_into() -> Callable[..., Recipe]:
    """`recipe_into(run_dir, **changes)`: the tiny recipe with top-level keys changed."""
    return lambda run_dir, **changes: resolve(tiny(run_dir, **changes))


@pytest.fixture
def make_recipe(tmp_path: Path, recipe_into: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """`make_recipe(run="run", **changes)`: the same, into `tmp_path / run`."""
    return lambda run="run", **changes: recipe_into(tmp_path / run, **changes)


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as such a run; a test that looks at the picture has the mark `curves`."""
    if request.node.get_closest_marker("curves") is None:
        monkeypatch.setattr(run_module, "draw_curves", lambda *_: None)


@pytest.fixture
def begin_and_stop(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], None]:
    """`begin_and_stop(recipe)` begins a run, which dies once its first checkpoint is written."""

    def stopped(*arguments: Any) -> None:
        write_checkpoint(*arguments)
        raise RuntimeError("stopped")

    def begin(recipe: Recipe) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(run_module, "write_checkpoint", stopped)
            with pytest.raises(RuntimeError, match="stopped"):
                train(recipe)

    return begin
