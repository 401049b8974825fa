"""From a recipe's data section to the sets that training and evaluation read.

A set that fits is decoded once into memory (`Images`); a larger one stays on disk (`Stream`).
"""

import math

import torch

from bcdnet.data.config import AugmentConfig, DataConfig
from bcdnet.data.dataset import Dataset, Subset, split_off, spread
from bcdnet.data.open import open_dataset
from bcdnet.data.problems import label_problems, problems_of, raise_for
from bcdnet.data.resize import to_pixels
from bcdnet.data.sources import Images, Source, Stream
from bcdnet.errors import DataError, RecipeError
from bcdnet.machine import memory

# Share of the machine's memory that one set may take before it is streamed instead.
MEMORY_SHARE = 0.25
# Below this many pixels an image is decoded within Python's lock for the most part, and threads only wait for it.
THREADED_PIXELS = 64 * 64
LOOKED_AT = 8  # images, for their sizes


def load_train(
    config: DataConfig, augment: AugmentConfig | None = None, processes: int = 1
) -> tuple[Source, Dataset | None]:
    """The training set, loaded, and its validation part, which is not: held out, stratified, or None.

    What is held out is the same in every run, lest one that goes on from another's network be judged by what that was
    trained on.

    `augment` is the augmentation of the training set, which decides at what size it is kept; `processes` of this
    machine do the same and share its memory. Raises DataError as `load_images` does; RecipeError if
    `config.validation` leaves nothing to train on.
    """
    train = open_dataset(config.path, config.train_split)
    raise_for(label_problems(train, config.train_split))
    held_out = None
    if config.validation:
        count = round(config.validation * len(train)) if config.validation < 1 else int(config.validation)
        if not 0 < count < len(train):
            raise RecipeError(f"data.validation: {config.validation} holds {count} of {len(train)} training images out")
        rest, chosen = split_off(train.labels, count)
        train, held_out = Subset(train, rest), Subset(train, chosen)
    return load(train, config, augment or AugmentConfig(), config.train_split, processes), held_out


def load_images(
    path: str, split: str, config: DataConfig, augment: AugmentConfig | None = None, processes: int = 1
) -> Source:
    """Load one split: `Images` (uint8 [N, C, H, W] and labels int64 [N]) if it fits in memory, else a `Stream`.

    H = W = config.image_size; for a training set whose `augment` crops at random, config.resize_size. Raises DataError
    naming every (up to 20) missing, empty, truncated or undecodable file and label out of range.
    """
    return load(open_dataset(path, split), config, augment or AugmentConfig(), split, processes)


def load(dataset: Dataset, config: DataConfig, augment: AugmentConfig, name: str, processes: int = 1) -> Source:
    """Load an open dataset, as `processes` of this machine do; `name` is shown beside the progress bar."""
    raise_for(label_problems(dataset, name))
    sizes = _sizes(dataset)
    size = config.image_size
    if augment.crop == "random_resized" and sizes != {(size, size)}:
        size = config.resize_size
    needed = len(dataset) * config.channels * size**2
    # Shards are what people use for sets that are larger than memory.
    stream = needed > memory_budget() // processes or config.path.startswith("wds://")
    if stream if config.in_memory is None else not config.in_memory:
        return Stream(dataset, config, augment)
    images = _decode(dataset, config, size, f"decoding {name}", threads=max(map(math.prod, sizes)) > THREADED_PIXELS)
    return Images(images, torch.from_numpy(dataset.labels), dataset.class_names, augment)


def memory_budget() -> int:
    """Bytes that one set may take in memory: a quarter of the machine's or the container's; 4 GiB where not known."""
    return int((memory() or 16 << 30) * MEMORY_SHARE)


def _sizes(dataset: Dataset) -> set[tuple[int, int]]:
    """The sizes (width, height) of a few images; 0 of one that cannot be read, which decoding names with all others."""
    sizes = set()
    for index in spread(len(dataset), LOOKED_AT):
        try:
            sizes.add(dataset.image(int(index)).size)
        except DataError:
            sizes.add((0, 0))
    return sizes


def _decode(dataset: Dataset, config: DataConfig, size: int, description: str, threads: bool) -> torch.Tensor:
    images = torch.empty((len(dataset), config.channels, size, size), dtype=torch.uint8)
    pixels = images.numpy()  # the same memory

    def decode(index: int) -> None:
        pixels[index] = to_pixels(dataset.image(index), config, size, dataset.where(index))

    raise_for(problems_of(decode, len(dataset), description, threads))
    return images
