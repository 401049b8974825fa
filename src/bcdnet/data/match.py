"""Whether a dataset is one that a model can be judged on: the same classes in the same order, the same channels."""

import logging
import os

from PIL.Image import Image

from bcdnet.data.dataset import Dataset, spread
from bcdnet.data.imagenet_classes import in_words
from bcdnet.data.open import open_dataset
from bcdnet.data.problems import label_problems, raise_for
from bcdnet.decoded_images import with_channels
from bcdnet.errors import DataError

_log = logging.getLogger(__name__)

LOOKED_AT = 32
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


def dataset_name(path: str) -> str:
    """What a dataset is called wherever it lies: the last part of its path or address."""
    return path.rstrip("/").rpartition("/")[2] if "://" in path else os.path.basename(os.path.abspath(path))


def open_for(class_names: list[str], checkpoint: str, path: str, split: str) -> Dataset:
    """Open a split of a dataset to judge a model on.

    Raises DataError as `open_dataset` does, if the split is empty, for labels that no class has (by file and row), and
    for other classes than the model's.
    """
    dataset = open_dataset(path, split)
    raise_for(label_problems(dataset, split))
    check_classes(class_names, dataset.class_names, checkpoint, path)
    return dataset


def check_classes(model: list[str], data: list[str], checkpoint: str, path: str) -> None:
    """Raise DataError unless label k means the same to both; ImageNet's folders mean what its classes are in words.

    Where one of them has numbers for names, that cannot be seen: a warning is logged that names the assumption.
    """
    numbered = [str(label) for label in range(len(data))]
    # Of classes without names a split has as many as its largest label says, which may not be all.
    if len(model) < len(data) or (len(model) > len(data) and data != numbered):
        raise DataError(f"{checkpoint} knows {len(model)} classes, {path} has {len(data)}: not the data of this model")
    model, data = in_words(model), in_words(data)
    if model[: len(data)] == data:
        return
    others = not set(data) <= set(model)
    if numbered in (model, data) and others:
        whose, names = (path, model) if data == numbered else (checkpoint, data)
        _log.warning("%s numbers its classes: taking 0 for %r, %d for %r", whose, names[0], len(names) - 1, names[-1])
        return
    place = next(label for label in range(len(data)) if model[label] != data[label])
    order = "the classes of this model in another order; call folders so that they sort as its classes, 02 before 10"
    remedy = "not the data of this model" if others else order
    raise DataError(f"class {place} is {model[place]!r} in {checkpoint}, {data[place]!r} in {path}: {remedy}")


def check_channels(channels: int, dataset: Dataset, checkpoint: str, path: str) -> None:
    """Raise DataError if the model wants grey images and the dataset has none, or the reverse.

    `LOOKED_AT` images tell: sets of photographs have some that are grey, and grey images may be stored as colours.
    """
    if not any(_fits(dataset.image(int(index)), channels) for index in spread(len(dataset), LOOKED_AT)):
        names = {1: ("grey", "colour"), 3: ("colour", "grey")}
        wanted, found = names.get(channels, (channels, "of 1 or 3 channels"))
        raise DataError(f"{checkpoint} sees {wanted} images, those of {path} are {found}: not the data of this model")


def _fits(image: Image, channels: int) -> bool:
    if channels != 1:
        return channels == 3 and image.mode not in GREY_MODES
    return image.mode in GREY_MODES or len({band.tobytes() for band in with_channels(image, 3).split()}) == 1
