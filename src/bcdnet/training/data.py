"""A run's datasets, and the iterables that Lightning and the evaluation draw batches from."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bcdnet.data import (
    Augment,
    AugmentConfig,
    Batches,
    DataConfig,
    Images,
    Source,
    check_dataset,
    load_images,
    load_train,
)
from bcdnet.data.load import load
from bcdnet.errors import RecipeError
from bcdnet.training.module import Augmentation, StepModule, mixed_seed
from bcdnet.training.recipe import TEACHER, Recipe, StepConfig

VALIDATION = "validation"


class RunData:
    """What a recipe trains on and is evaluated on, loaded once; `class_names` in the order of the labels.

    `digest` tells its training images from others, short of their pixels: by their labels in order and the classes.
    """

    def __init__(self, recipe: Recipe) -> None:
        test = evaluated_split(recipe)
        splits = [name for name in (recipe.data.train_split, test) if name is not None]
        check_dataset(recipe.data, decode=recipe.data.check, splits=splits)
        self.config = recipe.data
        self.seed = recipe.seed
        self.augment = recipe.steps[0].augment
        self.processes = recipe.trainer.devices
        self.source, held_out = load_train(self.config, self.augment, self.processes)
        self.class_names = self.source.class_names
        names = json.dumps(self.class_names).encode()
        self.digest = hashlib.sha256(names + self.source.labels.numpy().tobytes()).hexdigest()
        if test is not None:
            self.evaluated = load_images(self.config.path, test, self.config, processes=self.processes)
        else:
            assert held_out is not None
            self.evaluated = load(held_out, self.config, AugmentConfig(), VALIDATION, self.processes)
        self._shares: dict[torch.device, Batches] = {}

    def train(self, augment: AugmentConfig) -> Source:
        """The training set for a step with `augment`; read again only where that changes what has to be kept."""
        train = self.source
        if augment == self.augment:
            return train
        cropped = [config.crop == "random_resized" for config in (augment, self.augment)]
        self.augment = augment
        if isinstance(train, Images) and cropped[0] == cropped[1]:
            self.source = replace(train, augment=augment)
        else:
            self.source = load_train(self.config, augment, self.processes)[0]
        return self.source

    def sample(self, step: StepConfig) -> Iterator[Tensor]:
        """Four batches of a step's training images, float32 [N, C, S, S] on the CPU, such as it will see."""
        source = self.train(step.augment)
        size = min(step.batch_size, 64)
        seed = mixed_seed(self.seed, 0, 3)
        shuffled = Batches(source, size, seed=seed, drop_last=True, shuffle=True, device=torch.device("cpu"))
        apply = augmentation(source, self.config)
        for number, (images, labels) in enumerate(islice(shuffled(0), 4)):
            yield apply(images, labels, mixed_seed(seed, number))[0]

    @property
    def kind(self) -> str:
        """Where the training images are read from; their order and random crops depend on it."""
        return "memory" if isinstance(self.source, Images) else "disk"

    def check_resumed(self, state: Mapping[str, Any], augment: AugmentConfig) -> None:
        """Raise RecipeError if a run that resumes at `state`, in a step with `augment`, would meet other batches.

        That is, other images than it began with, or the same in another order.
        """
        if state.get("data", self.digest) != self.digest:
            raise RecipeError(
                f"--resume: {self.config.path} does not hold the training images and classes that the run began with; "
                "give data.path the place where those are"
            )
        self.train(augment)  # on which it may depend whether they fit in memory
        before = state.get("source", self.kind)
        if before != self.kind:
            raise RecipeError(
                f"--resume: the run read its images from {before}, here they would come from {self.kind} and in "
                f"another order: add data.in_memory={'true' if before == 'memory' else 'false'}"
            )

    def evaluation(self, batch_size: int, device: torch.device, rank: int, world_size: int) -> Batches:
        """The share that this process evaluates while training; moved to a GPU once."""
        if device not in self._shares:
            self._shares[device] = evaluation_batches(self.evaluated, batch_size, device, rank, world_size)
        return self._shares[device]


def evaluated_split(recipe: Recipe) -> str | None:
    """The split that is evaluated while training, None for what is held out of the training split."""
    name, test = recipe.validation.split, recipe.data.test_split
    if recipe.data.validation and name in (None, VALIDATION):
        return None
    if name in (None, test):
        return test
    raise RecipeError(
        f"validation.split: {name!r} is neither data.test_split ({test!r}) nor {VALIDATION!r}, "
        "which data.validation holds out of the training split"
    )


class TrainLoader:
    """What Lightning iterates once per epoch: (uint8 images, labels, part), the part counted from the step's beginning.

    An epoch begins where the module's iteration stands, so the first one of a resumed run begins in its middle, and the
    last one ends with the step.
    """

    def __init__(self, source: Source, module: StepModule) -> None:
        self.source = source
        self.module = module
        self._batches: Batches | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        plan, parts = self.module.plan, self.module.config.accumulate
        iteration = self.module.iteration
        epoch, done = divmod(iteration, plan.per_epoch)
        count = min(plan.per_epoch - done, plan.iterations - iteration)
        batches = islice(self._shares()(epoch, start=done * parts), count * parts)
        for part, (images, labels) in enumerate(batches, start=iteration * parts):
            yield images, labels, part

    def _shares(self) -> Batches:
        # Made when Lightning first asks, since only then device and rank are known.
        if self._batches is None:
            module = self.module
            self._batches = Batches(
                self.source,
                module.step.batch_size // module.config.accumulate,
                seed=mixed_seed(module.seed, module.index, 2),
                drop_last=True,
                shuffle=True,
                device=module.device,
                rank=module.global_rank,
                world_size=module.config.world_size,
            )
        return self._batches


def iterations_per_epoch(images: int, step: StepConfig) -> int:
    """Full batches in `images` images; those that are left over in one epoch come up in others.

    Raises RecipeError if there is not one.
    """
    if images < step.batch_size:
        where = "teacher.train" if step.name == TEACHER else f"steps.{step.name}"
        raise RecipeError(f"{where}.batch_size: {step.batch_size} is more than the {images} training images")
    return images // step.batch_size


def evaluation_batches(source: Source, batch_size: int, device: torch.device, rank: int, world_size: int) -> Batches:
    """What this process evaluates of a whole split, in the split's order."""
    size = -(-batch_size // world_size) * world_size
    return Batches(source, size, shuffle=False, device=device, rank=rank, world_size=world_size)


def augmentation(source: Source, config: DataConfig) -> Augmentation:
    """What `source.augment` leaves to do: (uint8 images, labels, seed) -> (float32 images [N, C, S, S], targets)."""
    augment = Augment(source.augment, config.image_size, config.mean, config.std)
    num_classes = len(source.class_names)

    def apply(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        return augment(images, labels, num_classes, seed=seed)

    return apply
