"""From the recipe's sections to networks: the student, and the teacher it learns from."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bcdnet.compiler import load_trained
from bcdnet.config import unknown_key
from bcdnet.data import preprocess_of
from bcdnet.data.config import DataConfig
from bcdnet.data.match import check_classes
from bcdnet.errors import BcdnetError, CheckpointError, RecipeError
from bcdnet.models import Loaded, Network, build, configure, name_of
from bcdnet.pretrained import list_pretrained
from bcdnet.training.recipe import ModelConfig, Recipe, StepConfig, TeacherConfig

_log = logging.getLogger(__name__)


def with_name(config: ModelConfig) -> ModelConfig:
    """A section that gives a checkpoint alone, with that network's name and settings.

    Raises CheckpointError for a checkpoint that is no model of ours, or whose network no name of ours stands for.
    """
    if config.name is not None:
        return config
    assert config.checkpoint is not None
    try:
        name, settings = name_of(_load("model.checkpoint", config.checkpoint).model.config)
    except RecipeError as error:
        raise CheckpointError(f"model.checkpoint: {config.checkpoint}: {error}; begin with it in Python") from None
    return replace(config, name=name, kwargs={**settings, **config.kwargs})


def design(config: ModelConfig, num_classes: int, channels: int, where: str = "model") -> Network:
    """The network that a recipe's section with a name asks for, on torch's meta device, which knows shapes alone.

    Raises RecipeError for a name that is not ours, and for settings that the network's family does not take.
    """
    assert config.name is not None
    section = where.removesuffix(".kwargs")
    if config.name in list_pretrained():
        raise RecipeError(f"{section}: {config.name} is a trained model: give it as {section}.checkpoint")
    data = {"num_classes": num_classes, "in_chans": channels}
    try:
        with torch.device("meta"):
            return build(configure(config.name, **data | config.kwargs))
    except (RuntimeError, TypeError, ValueError) as error:
        about_setting = str(error).partition(":")[0] in config.kwargs
        key = f"{where}." if about_setting else f"{section}: "
        raise RecipeError(f"{key}{error}") from None


def check_fit(model: Network, where: str, recipe: Recipe, step: StepConfig, num_classes: int) -> None:
    """Raise RecipeError unless the network takes a step's batches and gives a logit for each class of the data.

    `model` is on torch's meta device.
    """
    if model.config.num_classes != num_classes:
        raise RecipeError(f"{where}.num_classes: {model.config.num_classes}, but the data has {num_classes} classes")
    config, size = recipe.trainer, recipe.data.image_size
    parts = config.accumulate * (1 if config.sync_bn else config.world_size)  # batch norm sees one of them at a time
    images = torch.empty(step.batch_size // parts, recipe.data.channels, size, size, device="meta")
    try:
        model.train()(images)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(
            f"{where}: this network cannot take a batch of shape {list(images.shape)}: {' '.join(str(error).split())}"
        ) from None


def initial_weights(
    config: ModelConfig, model: Network, data: DataConfig, labels: list[str]
) -> tuple[dict[str, Tensor], Loaded]:
    """What `config.checkpoint` gives `model` to begin with, as a state dict, and all that it holds.

    All but the heads, which count only where they are for the same classes in the same order; `model` may be on torch's
    meta device. A warning is logged where the network knows images of another size or normalisation. Raises
    CheckpointError for a file that is no model of ours, RecipeError for a network of another shape.
    """
    assert config.checkpoint is not None
    loaded = _load("model.checkpoint", config.checkpoint)
    wanted, given = model.state_dict(), loaded.model.state_dict()
    heads = {name for name in (*wanted, *given) if name.startswith("head.")}
    for name in sorted((wanted.keys() | given.keys()) - heads):
        shapes = [list(weights[name].shape) if name in weights else "nothing" for weights in (given, wanted)]
        if shapes[0] != shapes[1]:
            what = _difference(loaded.model, model) or f"{name} is {shapes[0]} there, {shapes[1]} here"
            raise RecipeError(
                f"model.checkpoint: the network of {config.checkpoint} is not of the shape of {config.name} with these "
                f"settings: {what}"
            )
    own, new = loaded.preprocess, preprocess_of(data)
    if other := [f"{key} {own[key]}, not {new[key]}" for key in ("input_size", "mean", "std") if own[key] != new[key]]:
        _log.warning("model.checkpoint: %s learned from images of %s", config.checkpoint, "; ".join(other))
    kept = wanted.keys() & given.keys() - (heads if loaded.labels != labels else set())
    return {name: given[name] for name in kept}, loaded


def _load(key: str, name: str | Path) -> Loaded:
    """`load_trained`, whose errors begin with the recipe's key."""
    try:
        return load_trained(name)
    except BcdnetError as error:
        raise CheckpointError(f"{key}: {error}") from None


def _difference(there: Network, here: Network) -> str:
    """The settings in which two networks of one family differ, but for their heads'."""
    if type(there.config) is not type(here.config):
        return ""
    theirs, ours = vars(there.config), vars(here.config)
    shown = [key for key in theirs if theirs[key] != ours[key] and key not in ("num_classes", "distilled", "estimator")]
    return "; ".join(f"{key} is {theirs[key]} there, {ours[key]} here" for key in shown)


class Teacher(nn.Module):
    """A frozen network that is given images as it knows them: normalised with its own mean and standard deviation."""

    def __init__(
        self,
        network: nn.Module,
        student: dict[str, Any],
        own: dict[str, Any],
        provenance: dict[str, Any] | None = None,
    ) -> None:
        """`student`, `own`: preprocessing (timm's `mean`, `std`, `input_size`) of what comes in and what it wants.

        `provenance`: its file's, if it is a file of ours.
        """
        super().__init__()
        self.provenance = provenance
        self.network = network.eval().requires_grad_(False)
        channels = student["input_size"][0]
        if own["input_size"][0] != channels:
            raise RecipeError(f"teacher: it sees {own['input_size'][0]} channels, but the images have {channels}")
        mean, std = (torch.tensor(student[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        own_mean, own_std = (torch.tensor(own[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        self.same = bool(torch.equal(mean, own_mean) and torch.equal(std, own_std))
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)
        self.scale: Tensor
        self.shift: Tensor

    def digest(self) -> str:
        """A hash of the network's weights, in hexadecimal."""
        state = sorted(self.network.state_dict().items())
        hashes = hashlib.sha256()
        for name, value in state:
            hashes.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return hashes.hexdigest()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images: float [N, C, H, W], normalised for the student -> logits [N, K]."""
        logits: Tensor = self.network(images if self.same else images * self.scale + self.shift)
        return logits

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode: its batch norm must not follow the student's images."""
        return super().train(False)


def load_teacher(config: TeacherConfig, trained: Path | None, data: DataConfig, labels: list[str]) -> Teacher:
    """The teacher that a recipe names. `trained`: the file that its own training phase wrote, if it had one.

    Raises RecipeError, CheckpointError or DataError: an unknown model, weights that do not fit or cannot be had, other
    classes than the data's, or those in another order.
    """
    preprocess = preprocess_of(data)
    source = trained or (config.checkpoint if config.model is None else None)
    if source is not None:
        loaded = _load("teacher.checkpoint", source)
        if len(loaded.labels) != len(labels):
            known = f"knows {len(loaded.labels)} classes" if loaded.labels else "names no classes (pack it with labels)"
            raise RecipeError(f"teacher: {source} {known}, the data has {len(labels)}")
        check_classes(loaded.labels, labels, str(source), data.path)
        if (own := loaded.preprocess["input_size"]) != preprocess["input_size"]:
            _log.warning("teacher: %s learned from images of size %s, not %s", source, own, preprocess["input_size"])
        return Teacher(loaded.model, preprocess, loaded.preprocess, loaded.provenance)
    network: Any = _timm_teacher(config, len(labels), data.channels)
    if not config.pretrained:
        return Teacher(network, preprocess, preprocess)
    # timm makes another number of classes or channels fit by weights that nobody trained.
    own = network.pretrained_cfg
    if own["num_classes"] != len(labels):
        known = f"{config.model} with timm's weights knows {own['num_classes']} classes"
        raise RecipeError(f"teacher: {known}, the data has {len(labels)}")
    return Teacher(network, preprocess, own)


def _timm_teacher(config: TeacherConfig, num_classes: int, channels: int) -> nn.Module:
    assert config.model is not None
    if not timm.is_model(config.model):
        raise RecipeError(f"teacher.model: {unknown_key(config.model, timm.list_models()).replace('key', 'model')}")
    settings = {"num_classes": num_classes, "in_chans": channels, **config.kwargs}
    try:
        network: nn.Module = timm.create_model(config.model, pretrained=config.pretrained, **settings)
    except Exception as error:
        # timm reports what it cannot download, or a setting that it does not know, through many kinds of exception.
        remedy = "; without network access give teacher.checkpoint a file" if config.pretrained else ""
        first_line = str(error).strip().split("\n")[0]
        raise RecipeError(
            f"teacher: cannot make {config.model}: {type(error).__name__}: {first_line}{remedy}"
        ) from None
    if config.checkpoint:
        _load_weights(network, Path(config.checkpoint).expanduser())
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"teacher.checkpoint: cannot read {path}: {' '.join(str(error).split())}") from None
    for key in ("state_dict", "model"):
        weights = weights.get(key, weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict):
        raise CheckpointError(f"teacher.checkpoint: {path} holds no state dict")
    try:
        network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(f"teacher.checkpoint: {path}: {' '.join(str(error).split())}") from None
