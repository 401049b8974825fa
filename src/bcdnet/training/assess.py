"""`bcdnet eval` without its command line: a model file against a dataset."""

import logging
from functools import partial
from pathlib import Path

import torch

from bcdnet.data import AugmentConfig, DataConfig, evaluate_transform, open_dataset
from bcdnet.data.load import load
from bcdnet.data.match import check_channels, check_classes, dataset_name
from bcdnet.errors import BcdnetError, DataError, RecipeError
from bcdnet.evaluation import Evaluation
from bcdnet.models import Loaded, load_model
from bcdnet.training.data import evaluation_batches
from bcdnet.training.evaluate import evaluate
from bcdnet.training.recipe import Recipe
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.run_folder import RunFolder

_log = logging.getLogger(__name__)


def assess(checkpoint: Path, path: str, split: str, batch_size: int, device: torch.device) -> Evaluation:
    """Evaluate a model file (or a run folder's) on a split of the dataset at `path`, preprocessed as the file says.

    Raises CheckpointError, DataError: either cannot be read, or the classes (their number, their names' order) or the
    images' channels are not the model's. The data that the model was trained on may have other channels: its recipe
    said so.
    """
    loaded = load_model(checkpoint)
    config = data_config(loaded, path, split)
    dataset = open_dataset(path, split)
    check_classes(loaded.class_names, dataset.class_names, str(checkpoint), path)
    if not own_data(checkpoint, path, loaded):
        check_channels(config.channels, dataset, str(checkpoint), path)
    source = load(dataset, config, AugmentConfig(), split)
    model = loaded.model.to(device)
    batches = evaluation_batches(source, batch_size, device, rank=0, world_size=1)
    return evaluate(model, batches(0), partial(evaluate_transform, config=config), loaded.class_names, device)


def recipe_of(checkpoint: Path) -> Recipe | None:
    """The resolved recipe of the run that a model file (or run folder) belongs to, if it lies in one.

    A recipe.yaml that is none, or of a later version, is warned of.
    """
    path = RunFolder(checkpoint if checkpoint.is_dir() else checkpoint.parent).recipe
    try:
        return load_recipe(path) if path.is_file() else None
    except RecipeError as error:
        _log.warning("%s is passed over: %s", path, error)
        return None


def own_data(checkpoint: Path, path: str, loaded: Loaded | None = None) -> bool:
    """Whether the dataset at `path` goes by the name of the one that the model was trained on."""
    recipe = recipe_of(checkpoint)
    if recipe is not None:
        return dataset_name(recipe.data.path) == dataset_name(path)
    return loaded is not None and loaded.provenance.get("data") == dataset_name(path)


def data_config(loaded: Loaded, path: str, split: str) -> DataConfig:
    """How a dataset has to be read for a model: its own preprocessing."""
    preprocess = loaded.preprocess
    channels, height, width = preprocess["input_size"]
    if height != width:
        raise DataError(f"the model wants {width}x{height} images; only square ones can be evaluated")
    return DataConfig(
        path,
        height,
        test_split=split,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        channels=channels,
        crop_pct=preprocess["crop_pct"],
        interpolation=preprocess["interpolation"],
    )


def pick_device(name: str) -> torch.device:
    """`auto`: a GPU if there is one. Raises BcdnetError for a device that this machine lacks."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name):
        raise BcdnetError(
            f"--device {name}: not here; choose {', '.join(kind for kind in available if available[kind])}"
        )
    return torch.device(name)
