"""From the recipe's `model` section to the network that it asks for and the weights that it begins with."""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bcdnet.compiler import load_trained
from bcdnet.data import preprocess_of
from bcdnet.data.config import DataConfig
from bcdnet.errors import BcdnetError, CheckpointError, RecipeError
from bcdnet.models import Loaded, Network, build, configure, name_of
from bcdnet.pretrained import list_pretrained
from bcdnet.training.recipe import ModelConfig, Recipe, StepConfig

_log = logging.getLogger(__name__)


def with_name(config: ModelConfig) -> ModelConfig:
    """A section that gives a checkpoint alone, with that network's name and settings.

    Raises CheckpointError for a checkpoint that is no model of ours, or whose network no name of ours stands for.
    """
    if config.name is not None:
        return config
    assert config.checkpoint is not None
    try:
        name, settings = name_of(load("model.checkpoint", config.checkpoint).model.config)
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
    except (RuntimeError, ValueError, AssertionError) as error:
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
    loaded = load("model.checkpoint", config.checkpoint)
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
    if other := [key for key in ("input_size", "mean", "std") if own[key] != new[key]]:
        learned = "; ".join(f"{key} {own[key]}, not {new[key]}" for key in other)
        words = " ".join(f"data.{key}={list(own[key])}".replace(" ", "") for key in other if key != "input_size")
        remedy = f"; to keep those: {words}" if words else ""
        _log.warning("model.checkpoint: %s learned from images of %s%s", config.checkpoint, learned, remedy)
    kept = wanted.keys() & given.keys() - (heads if loaded.labels != labels else set())
    return {name: given[name] for name in kept}, loaded


def load(key: str, name: str | Path) -> Loaded:
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
    keys = {"in_chans": "in_chans (data.channels)"}  # which data decides
    return "; ".join(f"{keys.get(key, key)} is {theirs[key]} there, {ours[key]} here" for key in shown)
