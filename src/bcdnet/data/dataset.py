"""The one shape that every dataset on disk takes: labelled images that are read one by one, and views of them."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcdnet.decoded_images import open_image
from bcdnet.errors import DataError

_log = logging.getLogger(__name__)

HOLDOUT = 0.1  # the share of `test` in a dataset without splits

# What tables of the Hugging Face layout call an image and its label.
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")

# What people call the same split; a requested split is looked for under its own name first.
ALIASES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "validation", "valid"),
    "validation": ("validation", "val", "valid"),
    "val": ("val", "validation", "valid"),
}


class Dataset(Protocol):
    """Labelled images in a fixed order, read at random.

    `labels` is int64 [N]; `class_names[k]` names label k. `groups` are the boundaries [0, …, N] of runs of images that
    are cheap to read together (row groups, shards), or None where any order costs the same; `window` is the number of
    images among which a shuffled order may jump. Picklable, so that workers can take it along.
    """

    class_names: list[str]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    window: int

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> Image.Image:
        """Decode one image. Raises DataError that names the file (and row) of one that cannot be decoded."""
        ...

    def where(self, index: int) -> str:
        """The place of one image, for messages: a file, or a file and a row."""
        ...


class Subset:
    """The images `indices` (ascending int64 [M]) of `dataset`, as a dataset."""

    def __init__(self, dataset: Dataset, indices: NDArray[np.int64]) -> None:
        self.dataset = dataset
        self.indices = indices
        self.class_names = dataset.class_names
        self.labels = dataset.labels[indices]
        self.groups = None if dataset.groups is None else np.unique(np.searchsorted(indices, dataset.groups))
        # As many as lie in a window of the dataset, whose cache holds no more.
        self.window = max(1, dataset.window * len(indices) // max(1, len(dataset)))

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        """Decode one image, as the dataset does."""
        return self.dataset.image(int(self.indices[index]))

    def where(self, index: int) -> str:
        """The place of one image in the dataset."""
        return self.dataset.where(int(self.indices[index]))


def spread(length: int, most: int) -> NDArray[np.int64]:
    """At most so many of range(length), spread evenly, the first and the last among them: ascending int64."""
    return np.linspace(0, length - 1, min(most, length)).round().astype(np.int64)


def split_off(labels: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide range(N) into (rest, held out), both ascending int64, the second of exactly `count` members.

    Stratified: each class gives its share of `count`, rounded by largest remainder. A pure function of its arguments.
    """
    if not count:
        return np.arange(len(labels)), np.arange(0)
    generator = np.random.default_rng([0, 0x5EED])
    order = generator.permutation(len(labels))
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * (count / len(labels))
    quotas = np.floor(shares).astype(np.int64)
    # The largest remainders first; of equal ones the smaller label.
    short = count - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:short]] += 1
    # A class that would be held out whole keeps an image to learn from, if another can give one more than its share.
    for label in np.flatnonzero(quotas == sizes):
        able = (sizes - quotas > 1) & (quotas <= shares)
        if able.any():
            quotas[label] -= 1
            quotas[np.where(able, shares - quotas, -1.0).argmax()] += 1
    chosen = [order[labels[order] == label][:quota] for label, quota in zip(classes, quotas, strict=True)]
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[np.concatenate(chosen)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def spellings(split: str) -> list[str]:
    """What a split may be called where it lies, its own name first."""
    return list(dict.fromkeys((split, *ALIASES.get(split, ()))))


def find_split(requested: str, available: Sequence[str]) -> str | None:
    """The name among `available` that means `requested` (itself, or an alias such as `val` for `test`), or None.

    Capitals count only where they are all that tells two names apart.
    """
    if requested in available:
        return requested
    known = {name.casefold(): name for name in available}
    return next((known[name] for name in spellings(requested.casefold()) if name in known), None)


def missing_split(place: str, requested: str, available: Sequence[str]) -> DataError:
    """The error for a split that is not there."""
    found = ", ".join(available) or "none"
    return DataError(
        f"{place}: no split {requested!r} (found: {found}); name one of them: --split, or in a recipe "
        "data.train_split and data.test_split"
    )


def holdout(dataset: Dataset, split: str, place: str) -> Dataset:
    """`train` (90 %), `test` (10 %, stratified, always the same) or `all` of a dataset without splits of its own.

    Raises DataError for any other split.
    """
    if split == "all":
        return dataset
    name = find_split(split, ("train", "test"))
    if name is None:
        raise missing_split(place, split, ("train", "test", "all"))
    _warn_of_holdout(place, name)
    train, test = split_off(dataset.labels, round(len(dataset) * HOLDOUT))
    return Subset(dataset, train if name == "train" else test)


@cache  # a run opens a dataset several times
def _warn_of_holdout(place: str, name: str) -> None:
    _log.warning(
        "%s has no splits: its %r is a fixed, stratified part (10 %% are test); split 'all' is the whole", place, name
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises DataError for one that is not UTF-8."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not text in UTF-8; save it as such") from None


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that counts: shard 2 comes before shard 11."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def decode(encoded: bytes, where: str) -> Image.Image:
    """Decode an encoded image as the runtime does. Raises DataError that opens with `where`."""
    if not encoded:
        raise DataError(f"{where}: empty image")
    return open_image(encoded, where)
