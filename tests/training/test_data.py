"""Which images a phase of a run gets, and from where on."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from bcdnet.data import AugmentConfig, Images
from bcdnet.data.digits import Digits
from bcdnet.errors import DataError
from bcdnet.training.data import RunData, TrainLoader, evaluation_batches
from bcdnet.training.module import Plan
from bcdnet.training.recipe import Recipe, TrainerConfig

MakeRecipe = Callable[..., Recipe]
DATA = {"path": "digits", "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35], "validation": 200}


def test_a_step_gets_the_augmentation_that_it_asks_for(make_recipe: MakeRecipe) -> None:
    data = RunData(make_recipe())
    first, other = data.augment, AugmentConfig(flip=True)
    for augment in (first, other, first):
        assert data.train(augment).augment == augment


def test_images_held_out_stay_so_where_the_others_are_read_again(make_recipe: MakeRecipe) -> None:
    data = RunData(make_recipe(data=DATA))
    labels = data.source.labels
    assert torch.equal(data.train(AugmentConfig(crop="random_resized")).labels, labels)


def test_the_same_images_are_held_out_for_every_seed(make_recipe: MakeRecipe) -> None:
    first, other = (RunData(make_recipe(data=DATA, seed=seed)) for seed in (0, 1))
    assert isinstance(first.evaluated, Images) and isinstance(other.evaluated, Images)
    assert torch.equal(first.evaluated.images, other.evaluated.images) and first.digest == other.digest


@pytest.mark.parametrize(("split", "images"), [(None, 200), ("validation", 200), ("test", 360)])
def test_the_split_that_is_evaluated(make_recipe: MakeRecipe, split: str | None, images: int) -> None:
    data = RunData(make_recipe(data=DATA, validation={"split": split}))
    assert sum(len(labels) for _, labels in data.evaluation(64, torch.device("cpu"), 0, 1)(0)) == images


def test_a_run_that_holds_images_out_needs_no_test_split(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    digits = Digits("train")
    for index in range(200):
        file = tmp_path / "tree" / "train" / f"digit {digits.labels[index]}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        digits.image(index).save(file)
    data = {**DATA, "path": str(tmp_path / "tree"), "validation": 40}
    assert len(RunData(make_recipe(data=data)).evaluated) == 40
    with pytest.raises(DataError, match="no split 'test'"):
        RunData(make_recipe(data={**data, "validation": 0}))


def test_broken_images_of_a_streamed_set_can_be_named_before(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (16, 16), number).save(tmp_path / "set" / split / name / f"{number}.png")
    broken = [tmp_path / "set" / split / "a" / "1.png" for split in ("train", "test")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:45])
    data = {"path": str(tmp_path / "set"), "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35]}
    RunData(make_recipe(data={**data, "in_memory": False}))
    with pytest.raises(DataError) as caught:
        RunData(make_recipe(data={**data, "in_memory": False, "check": True}))
    assert all(f"{path}: cannot be decoded" in str(caught.value) for path in broken)


def test_processes_that_do_not_divide_the_batch_evaluate_each_image_once() -> None:
    labels = torch.arange(23)
    source = Images(labels.to(torch.uint8).view(-1, 1, 1, 1), labels, ["class"] * 23, AugmentConfig())
    seen = [
        labels
        for rank in (0, 1, 2)
        for _, labels in evaluation_batches(source, 10, torch.device("cpu"), rank, world_size=3)(0)
    ]
    assert sorted(torch.cat(seen).tolist()) == list(range(23))


def test_the_last_epoch_may_be_short() -> None:
    plan = Plan(13, 5)
    assert plan.epochs == 3 and [at for at in range(1, 14) if plan.epoch_ends_at(at)] == [5, 10, 13]


@pytest.mark.parametrize("start", [3, 5, 6, 11])
def test_parts_of_batches_go_on_where_a_run_was_stopped(start: int) -> None:
    """Five iterations are an epoch, and the third one is cut short."""
    labels = torch.arange(80)
    source = Images(labels.to(torch.uint8).view(-1, 1, 1, 1), labels, ["class"] * 80, AugmentConfig())
    step = SimpleNamespace(batch_size=16)

    def parts(iteration: int, seed: int = 3) -> list[tuple[list[int], int]]:
        module: Any = SimpleNamespace(plan=Plan(13, 5, iteration), iteration=iteration, step=step, seed=seed, index=0)
        module.config = TrainerConfig(accumulate=4)
        module.device, module.global_rank = torch.device("cpu"), 0
        loader, found = TrainLoader(source, module), []
        while module.iteration < module.plan.iterations:
            epoch = [(labels.tolist(), part) for _, labels, part in loader]
            module.iteration += len(epoch) // 4
            found += epoch
        return found

    whole = parts(0)
    assert [part for _, part in whole] == list(range(13 * 4)) and all(len(labels) == 4 for labels, _ in whole)
    assert sorted(label for labels, _ in whole[:20] for label in labels) == list(range(80))
    assert parts(start) == whole[start * 4 :] != parts(start, seed=4)
