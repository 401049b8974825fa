"""Whether a dataset is one that a model can be judged on: the same classes in the same order, the same channels."""

import logging
import os

from bcdnet.data.dataset import Dataset
from bcdnet.errors import DataError

_log = logging.getLogger(__name__)

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


def dataset_name(path: str) -> str:
    """What a dataset is called wherever it lies: the last part of its path or address."""
    return path.rstrip("/").rpartition("/")[2] if "://" in path else os.path.basename(os.path.abspath(path))


def check_classes(model: list[str], data: list[str], checkpoint: str, path: str) -> None:
    """Raise DataError unless label k means the same to both.

    Where one of them has numbers for names, that cannot be seen: a warning is logged that names the assumption.
    """
    numbered = [str(label) for label in range(len(data))]
    # Of classes without names a split has as many as its largest label says, which may not be all.
    if len(model) < len(data) or (len(model) > len(data) and data != numbered):
        raise DataError(f"{checkpoint} knows {len(model)} classes, {path} has {len(data)}: not the data of this model")
    if model[: len(data)] == data:
        return
    if numbered in (model, data):
        whose, names = (path, model) if data == numbered else (checkpoint, data)
        _log.warning("%s numbers its classes: taking 0 for %r, %d for %r", whose, names[0], len(names) - 1, names[-1])
        return
    place = next(label for label in range(len(data)) if model[label] != data[label])
    raise DataError(
        f"class {place} is {model[place]!r} in {checkpoint}, {data[place]!r} in {path}: not the data of this model"
    )


def check_channels(channels: int, dataset: Dataset, checkpoint: str, path: str) -> None:
    """Raise DataError if the model wants grey images and the dataset's first one is in colour, or the reverse."""
    found = 1 if dataset.image(0).mode in GREY_MODES else 3
    if found != channels:
        names = {1: "grey", 3: "colour"}
        raise DataError(
            f"{checkpoint} sees {names.get(channels, channels)} images, those of {path} are {names[found]}: "
            "not the data of this model"
        )
