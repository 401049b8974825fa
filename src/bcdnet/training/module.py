"""One step of a recipe as a Lightning module. Everything that changes with time is a function of the iteration.

N images, C channels, K classes. An *iteration* is one optimiser step; with `accumulate` > 1 it takes several parts.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from bcdnet.nn import set_progress
from bcdnet.nn.sign import AnnealedEstimator
from bcdnet.training.ema import WeightAverage
from bcdnet.training.loss import TrainingLoss
from bcdnet.training.optim import build_optimizer, restore_state
from bcdnet.training.recipe import StepConfig, TrainerConfig
from bcdnet.training.schedule import annealing, learning_rate, warmup_iterations

Augmentation = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """A step's length in iterations, an epoch's, and where this process begins (0, or a checkpoint's iteration)."""

    iterations: int
    per_epoch: int
    start: int = 0

    @property
    def epochs(self) -> int:
        """Epochs in all; the last may be cut short."""
        return -(-self.iterations // self.per_epoch)

    def epoch_ends_at(self, iteration: int) -> bool:
        """Whether an epoch (perhaps the shortened last) is complete after `iteration` optimiser steps."""
        return iteration % self.per_epoch == 0 or iteration == self.iterations


def plan_step(step: StepConfig, per_epoch: int, start: int) -> Plan:
    """The plan of `step` where an epoch has `per_epoch` iterations, from iteration `start` on."""
    iterations = step.iterations if step.iterations is not None else (step.epochs or 0) * per_epoch
    return Plan(iterations, per_epoch, start)


def mixed_seed(seed: int, *position: int) -> int:
    """A seed in [0, 2^63) that is a hash of the recipe's seed and a place in the run."""
    return int(np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0]) >> 1


class Running:
    """Sums since the last row: loss, hits, images. On the device, so that an iteration need not wait for it."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)

    def to(self, device: torch.device) -> None:
        """Move the sums to where the losses are."""
        # MPS has no float64; sums of a few thousand losses do not need it.
        self.sums = self.sums.to(device, torch.float32 if device.type == "mps" else torch.float64)


@torch.no_grad()
def batch_sums(loss: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """What a batch adds to `Running.sums`. loss: mean, 0-dim; logits [N, K]; targets int64 [N] or probabilities."""
    labels = targets if targets.dim() == 1 else targets.argmax(1)
    hits = (logits.argmax(1) == labels).sum()
    return torch.stack([loss * len(labels), hits, hits.new_full((), len(labels))])


class StepModule(pl.LightningModule):
    """Trains `model` for one step of a recipe from `plan.start` on.

    `index` is the step's place in the run and keeps its random numbers apart from the other steps'. `augment(images
    uint8, labels, seed)` gives the normalised batch and its targets. `optimizer_state` is a checkpoint's, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        step: StepConfig,
        plan: Plan,
        trainer_config: TrainerConfig,
        augment: Augmentation,
        *,
        index: int,
        seed: int,
        teacher: nn.Module | None = None,
        optimizer_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.step = step
        self.plan = plan
        self.config = trainer_config
        self.augment = augment
        self.index = index
        self.seed = seed
        self.loss = TrainingLoss(step)
        self.warmup = warmup_iterations(step, plan.per_epoch, plan.iterations)
        self.average = WeightAverage(model, step.ema) if step.ema else None
        self.optimizer_state = optimizer_state
        # In lists, so that they are no submodules: DDP shall not see the model twice, nor the teacher at all.
        self._called = [self._compiled(model)]
        self._teacher = [None if teacher is None else self._compiled(teacher)]
        self._annealed = [module for module in model.modules() if isinstance(module, AnnealedEstimator)]
        self.interval, self.epoch = Running(), Running()
        self.shown: dict[str, float | int | str] = {}

    def _compiled(self, network: nn.Module) -> nn.Module:
        if not self.config.compile:
            return network
        # A step's batches have one shape; another step's would make torch compile for any, in slower kernels.
        return cast(nn.Module, torch.compile(network, mode=self.config.compile_mode, dynamic=False))

    @property
    def iteration(self) -> int:
        """Optimiser steps done in this step of the recipe, those before a resume included."""
        return self.plan.start + self.trainer.global_step

    @property
    def learning_rate(self) -> float:
        """The rate of the optimiser step that comes next."""
        return learning_rate(self.step, self.iteration, self.plan.iterations, self.warmup)

    @property
    def teacher(self) -> nn.Module | None:
        """The network whose softmax is imitated, or None."""
        return self._teacher[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Lightning calls it once the parameters are on their device."""
        optimizer = build_optimizer(self.model, self.step)
        if self.optimizer_state is not None:
            restore_state(optimizer, self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's own refuses fused optimisers in mixed precision; bfloat16 has no scaler that would mind."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_fit_start(self) -> None:
        """Bring along what Lightning does not move."""
        if self.teacher is not None:
            self.teacher.to(self.device)
            if self.config.channels_last:
                self.teacher.to(memory_format=torch.channels_last)
        if self.average is not None:
            self.average.to(self.device)
        for running in (self.interval, self.epoch):
            running.to(self.device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor, int]:
        """(uint8 images, labels, part) -> (augmented images, targets, part); the part's number seeds the randomness."""
        images, labels, part = batch
        with torch.autocast(self.device.type, enabled=False):
            images, targets = self.augment(images, labels, mixed_seed(self.seed, self.index, part, self.global_rank))
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets, part

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set all that depends on time, so that a resumed run meets it as an uninterrupted one does."""
        seed = mixed_seed(self.seed, self.index, batch[2], self.global_rank, 1)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # torch.manual_seed would also visit the kinds of device that this run does not use, for a millisecond or two.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        progress = annealing(self.step, self.iteration, self.plan.iterations)
        for estimator in self._annealed:
            set_progress(estimator, progress)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.learning_rate * group.get("lr_factor", 1.0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Forward, teacher, loss."""
        images, targets, _ = batch
        if self.config.compile and self.config.compile_mode != "default":
            # What the graphs of the iteration before gave may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        logits = self._called[0](images)
        loss: Tensor = self.loss(logits, targets, None if self.teacher is None else self.teacher(images))
        mean = (logits[0] + logits[1]) / 2 if isinstance(logits, tuple) else logits
        sums = batch_sums(loss, mean, targets)
        for running in (self.interval, self.epoch):
            running.sums += sums
        return loss
