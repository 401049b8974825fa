"""Recipes: the shipped ones, the paper's numbers in them, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bcdnet.cli.main import app
from bcdnet.errors import RecipeError
from bcdnet.training.recipe import Recipe
from bcdnet.training.recipe_file import differences, load_recipe, resolve, to_yaml

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHIPPED = sorted(RECIPES.glob("*.yaml"))


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "name": "minimal",
        "model": {"name": "bcdnet_b_r18_small"},
        "data": {"path": "digits", "image_size": 16},
        "steps": [{"name": "step1", "lr": 1e-3, "epochs": 2, "batch_size": 64}],
        **changes,
    }


def test_every_result_has_its_recipe() -> None:
    names = {path.stem for path in SHIPPED}
    wanted = {"digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "imagenette", "imagenet"}
    assert names >= wanted | {"imagenet_reactnet"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_print_shows_a_recipe_that_reads_back_equal(path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(path), "--print", "run_dir=somewhere"], catch_exceptions=False)
    assert result.exit_code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(result.stdout)
    assert load_recipe(printed) == load_recipe(path, ["run_dir=somewhere"])
    assert load_recipe(path).name == path.stem


def test_imagenet_has_the_papers_numbers() -> None:
    recipe = load_recipe(RECIPES / "imagenet.yaml")
    step1, step2 = recipe.steps
    assert (step1.weight_bits, step1.iterations, step1.batch_size, step1.optimizer) == (32, 300_000, 256, "adamw")
    assert (step1.lr, step1.warmup_lr, step1.warmup_iterations, step1.schedule) == (4e-3, 1e-3, 15_000, "cosine")
    assert (step1.weight_decay, step1.label_smoothing, step1.min_lr) == (0.01, 0.1, 0.0)
    assert (step2.weight_bits, step2.iterations, step2.batch_size, step2.optimizer) == (1, 600_000, 256, "adamw")
    assert (step2.lr, step2.warmup_iterations, step2.weight_decay, step2.schedule) == (5e-4, 0, 0.0, "cosine")
    assert step1.augment.color_jitter and not step2.augment.color_jitter
    for step in (step1, step2):
        assert step.augment.crop == "random_resized" and step.augment.flip
        assert (step.distillation.weight, step.distillation.temperature) == (1.0, 1.0)
    assert recipe.teacher is not None and recipe.teacher.model == "resnet50.tv_in1k"
    assert (recipe.data.image_size, recipe.data.resize_size) == (224, 256)


def test_imagenet_reactnet_has_reactnets_numbers() -> None:
    recipe = load_recipe(RECIPES / "imagenet_reactnet.yaml")
    assert recipe.model.name == "reactnet_a"
    for step, bits, decay in zip(recipe.steps, (32, 1), (1e-5, 0.0), strict=True):
        assert (step.weight_bits, step.epochs, step.batch_size) == (bits, 128, 256)
        assert (step.optimizer, step.lr, step.schedule, step.weight_decay) == ("adam", 1.25e-3, "linear", decay)
    assert recipe.teacher is not None and recipe.teacher.model == "resnet34.tv_in1k"


def test_epochs_alone_set_every_step_and_the_teachers() -> None:
    recipe = load_recipe(RECIPES / "cifar10.yaml", ["epochs=1"])
    assert [step.epochs for step in recipe.steps] == [1, 1]
    assert recipe.teacher is not None and recipe.teacher.train is not None and recipe.teacher.train.epochs == 1
    imagenet = load_recipe(RECIPES / "imagenet.yaml", ["epochs=3"])
    assert [(step.epochs, step.iterations) for step in imagenet.steps] == [(3, None), (3, None)]
    short = load_recipe(RECIPES / "cifar10.yaml", ["iterations=7"])
    assert [(step.epochs, step.iterations) for step in short.steps] == [(None, 7), (None, 7)]


def test_a_steps_augmentation_overrides_the_recipes() -> None:
    own = ["steps.step1.augment.color_jitter=[0.2, 0.2, 0.2]", "steps.step2.augment.flip=false"]
    recipe = load_recipe(RECIPES / "cifar10.yaml", ["augment.padding=3", *own])
    step1, step2 = recipe.steps
    assert (step1.augment.padding, step1.augment.flip, step1.augment.color_jitter) == (3, True, (0.2, 0.2, 0.2))
    assert (step2.augment.padding, step2.augment.flip, step2.augment.color_jitter) == (3, False, ())


def test_the_augmentation_of_a_written_recipe_is_still_every_steps(tmp_path: Path) -> None:
    """Each step once had all keys written out as its own, and changes to those of all reached none."""
    words = ["augment.mixup=0.1", "steps.step2.augment.flip=false", "steps.step2.augment.mixup=0"]
    recipe = load_recipe(RECIPES / "cifar10.yaml", words)
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    changed = load_recipe(tmp_path / "again.yaml", ["augment.padding=3", "augment.flip=false", "augment.mixup=0.5"])
    assert [(s.augment.padding, s.augment.flip, s.augment.mixup) for s in changed.steps] == [
        (3, False, 0.5),
        (3, False, 0.0),
    ]
    assert changed.teacher is not None and changed.teacher.train is not None
    assert changed.teacher.train.augment.padding == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modle": {}}, "modle: unknown key; did you mean 'model'?"),
        ({"epoch": 5}, "epoch: unknown key; did you mean 'epochs'?"),
        (
            {"steps": [{"name": "a", "lr": 1, "epochs": 1, "wieght_decay": 0}]},
            "steps.0.wieght_decay: unknown key; did you",
        ),
        (
            {"steps": [{"name": "a", "lr": 1, "epochs": 1, "augment": {"flp": 1}}]},
            "steps.0.augment.flp: unknown key; did you",
        ),
        (
            {"trainer": {"accumulate": 2, "compile_mode": "reduce-overhead"}},
            "trainer.compile_mode: reduce-overhead keeps gradients where the next part",
        ),
        (
            {"trainer": {"devices": 2, "compile_mode": "reduce-overhead"}},
            "trainer.compile_mode: reduce-overhead is for one process; with 2 it is default",
        ),
        ({"steps": []}, "steps: a recipe needs at least one step"),
        ({"steps": [{"name": "a", "lr": 1}]}, "steps.0.epochs: give exactly one of epochs and iterations for 'a'"),
        (
            {"steps": [{"name": "a", "lr": 1, "epochs": 1, "iterations": 1}]},
            "steps.0.epochs: give exactly one of epochs and iterations",
        ),
        ({"steps": [{"name": "a b", "lr": 1, "epochs": 1}]}, "steps.0.name: must be a word"),
        ({"steps": [{"name": "model", "lr": 1, "epochs": 1}]}, "steps: model is a file of the run folder"),
        ({"steps": [{"name": "a", "lr": 1, "epochs": 1}] * 2}, "steps: names must differ"),
        (
            {"steps": [{"name": "a", "lr": 1, "epochs": 1, "weight_bits": 2}]},
            "steps.0.weight_bits: must be one of 32, 1",
        ),
        ({"steps": [{"name": "a", "lr": -1, "epochs": 1}]}, "steps.0.lr: must be >= 0"),
        ({"trainer": {"devices": 3}}, "steps: batch_size 64 of 'step1' must divide into 3 parts"),
        ({"trainer": {"precision": 16}}, "trainer.precision: must be one of '32', 'bf16', got 16"),
        ({"model": {}}, "model.name: give a network, or a checkpoint alone"),
        ({"teacher": {}}, "teacher.model: a teacher needs a model or a checkpoint"),
        ({"teacher": {"checkpoint": "x", "train": {"lr": 1, "epochs": 1}}}, "teacher.model: give the model to train"),
        ({"teacher": {"model": "resnet18"}}, "teacher.model: give exactly one of checkpoint, pretrained and train"),
        ({"teacher": {"checkpoint": "x", "image_size": 0}}, "teacher.image_size: must be >= 1, got 0"),
        (
            {"teacher": {"model": "resnet18", "image_size": 9, "train": {"epochs": 1, "batch_size": 8, "lr": 0.1}}},
            "teacher.image_size: a teacher that the run trains",
        ),
        (
            {"teacher": {"model": "resnet18_twin", "train": {"lr": 1, "epochs": 1, "weight_bits": 1}}},
            "teacher.train.weight_bits: a teacher is real-valued",
        ),
        (
            {"teacher": {"model": "resnet18_twin", "train": {"lr": 1, "epochs": 1, "name": "step1"}}},
            "teacher.train.name: a teacher's file is 'teacher'",
        ),
        ({"teacher": {"checkpoint": "x", "kwargs": {"width": 1}}}, "teacher.kwargs: a checkpoint alone says itself"),
        ({"epochs": 1, "iterations": 1}, "epochs: give one of epochs and iterations at the top"),
        ({"seed": -1}, "seed: must be in [0, 2^31), got -1"),
        ({"data": {"path": "digits", "image_size": 2}}, "data.image_size: must be at least 4"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(minimal(**changes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.widht=0.5", "model: unknown setting of bcdnet_b_r18_small 'widht': did you mean 'width'?"),
        ("model.name=bcdnet_c", "model: unknown model 'bcdnet_c'"),
        ("model.width=0", "model: width multiplies channels"),
        ("steps.step1.weight_bits=2", "weight_bits: must be one of 32, 1, got 2\n"),
    ],
)
def test_print_names_what_is_wrong(word: str, message: str, call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("train", RECIPES / "digits.yaml", "--print", word)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(RecipeError, match=r"Is a directory; give .*recipe\.yaml$"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: the recipe is empty$"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path / "missing.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1")
    with pytest.raises(RecipeError, match="is not valid YAML"):
        load_recipe(path)
    path.write_text("steps:\n  - lr: 1\n    name: x\n    lr: 2")
    with pytest.raises(RecipeError, match=r"is not valid YAML: the key 'lr' is given twice .* line 4"):
        load_recipe(path)
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(RecipeError, match="is not a recipe, which is YAML in UTF-8"):
        load_recipe(path)
    path.write_text("- 1")
    with pytest.raises(RecipeError, match="a recipe is a mapping of keys, got list"):
        load_recipe(path)


def test_differences_name_keys() -> None:
    one = resolve(minimal())
    other = resolve(minimal(seed=3, model={"name": "bcdnet_b_r18_small", "width": 2}, run_dir="elsewhere"))
    assert differences(one, other) == ["model.width", "run_dir", "seed"]
    assert differences(one, other, ignore=["run_dir", "model"]) == ["seed"]
    assert isinstance(yaml.safe_load(to_yaml(one)), dict)
    assert isinstance(one, Recipe)
