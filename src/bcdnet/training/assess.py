"""`bcdnet eval` without its command line: a model file against a dataset."""

from functools import partial
from pathlib import Path

import torch

from bcdnet.data import DataConfig, evaluate_transform, load_images
from bcdnet.errors import BcdnetError, DataError
from bcdnet.models import Loaded, load_model
from bcdnet.training.data import evaluation_batches
from bcdnet.training.evaluate import Evaluation, evaluate


def assess(checkpoint: Path, path: str, split: str, batch_size: int, device: torch.device) -> Evaluation:
    """Evaluate a model file (or a run folder's) on a split of the dataset at `path`, preprocessed as the file says.

    Raises CheckpointError, DataError: either cannot be read, or the number of classes, or their names' order, differ.
    """
    loaded = load_model(checkpoint)
    config = data_config(loaded, path, split)
    source = load_images(path, split, config)
    check_classes(loaded.labels, source.class_names, str(checkpoint), path)
    model = loaded.model.to(device)
    batches = evaluation_batches(source, batch_size, device, rank=0, world_size=1)
    return evaluate(model, batches(0), partial(evaluate_transform, config=config), loaded.labels, device)


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


def check_classes(model: list[str], data: list[str], checkpoint: str, path: str) -> None:
    """Raise DataError unless label k means the same to both (numbered classes have no names to compare)."""
    if len(model) != len(data):
        raise DataError(f"{checkpoint} knows {len(model)} classes, {path} has {len(data)}: not the data of this model")
    numbered = [str(label) for label in range(len(data))]
    if model != data and numbered not in (model, data):
        place = next(label for label in range(len(data)) if model[label] != data[label])
        raise DataError(
            f"class {place} is {model[place]!r} in {checkpoint}, {data[place]!r} in {path}: not the data of this model"
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
