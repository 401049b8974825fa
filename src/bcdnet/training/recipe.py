"""What a recipe says: one dataclass per section of the YAML file, ranges checked as it is read."""

from dataclasses import dataclass, field
from typing import Any, Literal

from bcdnet.data import AugmentConfig, DataConfig
from bcdnet.errors import RecipeError

TEACHER = "teacher"  # the name of a teacher's training and of its file


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise RecipeError(message)


@dataclass(frozen=True)
class ModelConfig:
    """`name`: a network of bcdnet's; the other keys of the section are its keyword arguments.

    `num_classes` and `in_chans` come from the data unless they are given. `checkpoint`: a trained network to begin with
    (a run folder, a model file, packed or not, a shipped model's name or hf-hub:ORG/REPO), or null for fresh weights;
    its heads are taken over where they are as many, for the same classes. With a `name` it must have that network's
    shape; without one it is the network, whose settings the other keys change.
    """

    name: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict, metadata={"rest": True})
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        _check(self.name is not None or self.checkpoint is not None, "name: give a network, or a checkpoint alone")

    def __str__(self) -> str:
        """Name and settings: a BCDNet-B of which one idea is left out shall not pass for a whole one."""
        settings = self.kwargs if self.checkpoint is None else {**self.kwargs, "checkpoint": self.checkpoint}
        return " ".join([self.name or "", *(f"{key}={value}" for key, value in settings.items())]).strip()


@dataclass(frozen=True)
class DistillationConfig:
    """The teacher's share of the loss (see `TrainingLoss`) and the temperature of both softmaxes."""

    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check(self.weight > 0, f"weight: must be > 0, got {self.weight}")
        _check(self.temperature > 0, f"temperature: must be > 0, got {self.temperature}")


@dataclass(frozen=True)
class StepConfig:
    """One run of an optimiser: the paper's step 1 (`weight_bits: 32`) or step 2 (`weight_bits: 1`), or a teacher's.

    Its length is `epochs` or `iterations` (optimiser steps), exactly one. `batch_size` is the global batch of one
    optimiser step, over all devices and accumulated parts. The learning rate rises from `warmup_lr` to `lr` on a line,
    over `warmup_iterations` or `warmup_epochs` but at most half of the step; then it falls to `min_lr` by a half cosine
    or on a line, or stays (`schedule`). `weight_decay` is of real-valued matrices and kernels alone: `adamw` decouples
    it, `adam` and `sgd` add it to the gradient. `momentum` is SGD's, with Nesterov's. `anneal`: the estimators'
    progress at the step's start and end. `channel_lr`: factor on the learning rate of what is learned per channel
    (thresholds, RPReLU, batch norm, biases). `latent_rms`: the root mean square that each binary
    block's latent weights are scaled to when the step begins (the smaller, the sooner their signs change), or null to
    leave them. `label_smoothing`, `label_weight`, `distillation`: see `TrainingLoss`. `clip_norm`: the largest norm of
    all gradients together, or null. `ema`: decay of the averaged weights that are then evaluated and exported, or null.
    `augment` overrides keys of the recipe's `augment`.
    """

    name: str
    lr: float
    weight_bits: Literal[32, 1] = 32
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int = 256
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.0
    channel_lr: float = 1.0
    latent_rms: float | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr: float = 0.0
    warmup_iterations: int = 0
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    anneal: tuple[float, float] = (0.0, 1.0)
    label_smoothing: float = 0.1
    label_weight: float | None = None
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    clip_norm: float | None = None
    ema: float | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _check(self.name.isidentifier(), f"name: must be a word (it names files), got {self.name!r}")
        _check(
            (self.epochs is None) != (self.iterations is None),
            f"epochs: give exactly one of epochs and iterations for {self.name!r}",
        )
        for key in ("epochs", "iterations", "batch_size"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"{key}: must be >= 1, got {value}")
        for key in ("lr", "weight_decay", "channel_lr", "min_lr", "warmup_iterations", "warmup_epochs", "warmup_lr"):
            _check(getattr(self, key) >= 0, f"{key}: must be >= 0, got {getattr(self, key)}")
        _check(
            not (self.warmup_iterations and self.warmup_epochs),
            "warmup_epochs: give one of warmup_epochs and warmup_iterations",
        )
        _check(0 <= self.momentum < 1, f"momentum: must be in [0, 1), got {self.momentum}")
        _check(0 <= self.label_smoothing < 1, f"label_smoothing: must be in [0, 1), got {self.label_smoothing}")
        _check(self.label_weight is None or self.label_weight >= 0, "label_weight: must be >= 0")
        _check(self.clip_norm is None or self.clip_norm > 0, f"clip_norm: must be > 0, got {self.clip_norm}")
        _check(self.latent_rms is None or self.latent_rms > 0, f"latent_rms: must be > 0, got {self.latent_rms}")
        _check(self.ema is None or 0 < self.ema < 1, f"ema: must be in (0, 1), got {self.ema}")
        _check(all(0 <= end <= 1 for end in self.anneal), f"anneal: both ends must be in [0, 1], got {self.anneal}")


@dataclass(frozen=True)
class TeacherConfig:
    """The real-valued network whose softmax the student imitates; one of four kinds.

    - `checkpoint` alone: what `model.checkpoint` may be.
    - `model` and `checkpoint`: a timm model and a state dict (.pt, .pth, .safetensors); `kwargs` are the model's.
    - `model` and `pretrained: true`: timm's own weights, which need its hub or its cache.
    - `model` and `train`: a network of bcdnet's, trained first, in the same run, with these settings.

    A `checkpoint` alone and `pretrained` see images normalised as they know them, the others as the student does. With
    `image_size` the student's images are resized for it (bilinear): large networks know small images better so.
    """

    model: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    pretrained: bool = False
    image_size: int | None = None
    train: StepConfig | None = None

    def __post_init__(self) -> None:
        _check(self.image_size is None or self.image_size >= 1, f"image_size: must be >= 1, got {self.image_size}")
        _check(
            self.image_size is None or self.train is None,
            "image_size: a teacher that the run trains sees images of data.image_size; leave it out",
        )
        _check(self.model is not None or self.checkpoint is not None, "model: a teacher needs a model or a checkpoint")
        _check(self.model is not None or self.train is None, "model: give the model to train")
        _check(self.model is not None or not self.kwargs, "kwargs: a checkpoint alone says itself what its network is")
        _check(
            self.model is None or (self.checkpoint is not None) + self.pretrained + (self.train is not None) == 1,
            "model: give exactly one of checkpoint, pretrained and train with it",
        )
        _check(
            self.train is None or self.train.name == TEACHER,
            f"train.name: a teacher's file is {TEACHER!r}; leave the name out",
        )
        _check(
            self.train is None or self.train.weight_bits == 32,
            "train.weight_bits: a teacher is real-valued, so it is 32",
        )


@dataclass(frozen=True)
class ValidationConfig:
    """Which split is evaluated while training, how often (in epochs; the last one always), at which batch size.

    `split`: null takes what `data.validation` holds out, or else the test split. Nothing is chosen by it: the last
    weights are what a run exports.
    """

    split: str | None = None
    every: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        _check(self.every >= 1, f"every: must be >= 1, got {self.every}")
        _check(self.batch_size >= 1, f"batch_size: must be >= 1, got {self.batch_size}")


@dataclass(frozen=True)
class TrainerConfig:
    """How the run uses the machine. Beside rounding, only three things here change what is learned: the number of
    processes (each draws augmentations of its own), `accumulate` and `sync_bn` (what batch norm sees at once).

    `devices` are processes per machine (`num_nodes` machines); `accumulate` splits a batch into that many parts.
    `compile_mode` is torch.compile's: "reduce-overhead" replays an NVIDIA GPU's work as CUDA graphs, so that it does
    not wait for the host to launch each kernel of a small network. `checkpoint_every` and `log_every` count iterations;
    every evaluation is followed by a checkpoint too. `grad_checkpointing` keeps only the inputs of the network's blocks
    for the backward pass, which computes the rest again: less memory, more time, the same result.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Literal["32", "bf16"] = "32"
    channels_last: bool = False
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    grad_checkpointing: bool = False
    accumulate: int = 1
    sync_bn: bool = True
    checkpoint_every: int = 1000
    log_every: int = 50

    def __post_init__(self) -> None:
        for key in ("devices", "num_nodes", "accumulate", "checkpoint_every", "log_every"):
            _check(getattr(self, key) >= 1, f"{key}: must be >= 1, got {getattr(self, key)}")
        _check(
            self.compile_mode == "default" or self.accumulate == 1,
            f"compile_mode: {self.compile_mode} keeps gradients where the next part of a batch overwrites them; "
            "with accumulate > 1 it is default",
        )
        _check(
            self.compile_mode == "default" or self.world_size == 1,
            f"compile_mode: {self.compile_mode} is for one process; with {self.world_size} it is default",
        )

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class Recipe:
    """One result: a model, its data, an optional teacher and the steps that train it, in order."""

    name: str
    model: ModelConfig
    data: DataConfig
    steps: tuple[StepConfig, ...]
    seed: int = 0
    run_dir: str = ""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    teacher: TeacherConfig | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        _check(len(self.steps) > 0, "steps: a recipe needs at least one step")
        _check(0 <= self.seed < 2**31, f"seed: must be in [0, 2^31), got {self.seed}")
        names = [step.name for step in self.steps]
        _check(len(set(names)) == len(names), f"steps: names must differ, got {', '.join(names)}")
        reserved = sorted({TEACHER, "model"} & set(names))
        _check(not reserved, f"steps: {', '.join(reserved)} is a file of the run folder; choose another name")
        parts = self.trainer.world_size * self.trainer.accumulate
        trained = (
            self.steps if self.teacher is None or self.teacher.train is None else (*self.steps, self.teacher.train)
        )
        for step in trained:
            _check(
                step.batch_size % parts == 0,
                f"steps: batch_size {step.batch_size} of {step.name!r} must divide into {parts} parts "
                "(trainer.devices x num_nodes x accumulate)",
            )
