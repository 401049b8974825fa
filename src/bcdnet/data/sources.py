"""Where batches come from: images decoded once into memory, or decoded by worker processes as they are needed.

Legend: N images of the set, B of a batch, C channels, H and W the stored height and width.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.config import AugmentConfig, DataConfig
from bcdnet.data.crop import random_boxes
from bcdnet.data.dataset import Dataset
from bcdnet.data.resize import to_pixels
from bcdnet.decoded_images import planes, with_channels
from bcdnet.errors import DataError

_log = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Images:
    """A set in memory: `images` uint8 [N, C, H, W], `labels` int64 [N], `class_names[label]`.

    `augment` is the augmentation still to be done on a batch of these.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: list[str]
    augment: AugmentConfig

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """All N indices in the shuffled order of an epoch; a pure function of seed and epoch."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def to(self, device: torch.device) -> "Images":
        """A copy on `device` if that is a GPU with room for it (half of its free memory), else the set itself."""
        if device.type != "cuda" or self.images.device == device:
            return self
        if self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fetch(
        self, batches: Iterable[NDArray[np.int64]], seed: int, epoch: int, device: torch.device
    ) -> Iterator[Batch]:
        """Yield (uint8 [B, C, H, W], int64 [B]) on `device` for each array of indices."""
        here = self.images.device
        for indices in batches:
            rows = torch.from_numpy(indices).to(here, non_blocking=True)
            images, labels = self.images[rows], self.labels[rows]
            if here != device and device.type == "cuda":
                images, labels = images.pin_memory(), labels.pin_memory()
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class Stream:
    """A set that stays on disk: the same interface as `Images`, without `images`.

    `config.workers` processes decode and resize whole batches ahead. If `augment.crop` is `random_resized` they crop
    too, from the full resolution; `self.augment`, what is left to do on the batch, says so. The workers live as long
    as the set and serve one epoch at a time; where one is killed, others take their place.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, augment: AugmentConfig) -> None:
        self._dataset = dataset
        self._config = config
        self._decoder = _Decoder(dataset, config, augment)
        self._plan = _Plan()
        self._loader: Any = None
        self.labels = torch.from_numpy(dataset.labels)
        self.class_names = dataset.class_names
        self.augment = replace(augment, crop="none") if augment.crop == "random_resized" else augment

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """All N indices in the shuffled order of an epoch; a pure function of seed and epoch.

        Groups (row groups, shards) are shuffled, then images within windows of `dataset.window`, so that what is read
        at a time lies in few places.
        """
        generator = np.random.default_rng([seed, epoch])
        groups = self._dataset.groups
        if groups is None:
            return generator.permutation(len(self))
        ranges = [np.arange(groups[group], groups[group + 1]) for group in generator.permutation(len(groups) - 1)]
        order = np.concatenate(ranges)
        for start in range(0, len(order), self._dataset.window):
            generator.shuffle(order[start : start + self._dataset.window])
        return order

    def to(self, device: torch.device) -> "Stream":
        """The set itself: nothing is kept on a device."""
        return self

    def fetch(
        self, batches: Iterable[NDArray[np.int64]], seed: int, epoch: int, device: torch.device
    ) -> Iterator[Batch]:
        """Yield (uint8 [B, C, S, S], int64 [B]) on `device` for each array of indices.

        Raises DataError that names the file of an image that cannot be decoded.
        """
        if self._loader is None or self._loader.pin_memory != (device.type == "cuda"):
            self._loader = self._start(device)
        self._plan.batches = [(seed, epoch, indices) for indices in batches]
        for decoded in self._decoded(device):
            if isinstance(decoded, DataError):
                raise decoded
            images, labels = decoded
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def _decoded(self, device: torch.device) -> Iterator[Batch | DataError]:
        while self._plan.batches:
            done = 0
            try:
                for decoded in self._loader:
                    yield decoded
                    done += 1
                return
            except RuntimeError as error:
                if not self._config.workers:
                    raise
                # A scheduler's SIGTERM ends them too, while the training has an iteration and a checkpoint to go.
                _log.warning("%s; others take their place", str(error).partition("\n")[0])
            rest = self._plan.batches[done:]
            self._loader, self._plan.batches = self._start(device), rest[1:]
            yield self._decoder.__getitems__(rest[0])  # so that it goes on even where each of them is killed

    def _start(self, device: torch.device) -> Any:
        workers = self._config.workers
        # A fork of a process that runs threads (torch, Arrow) may hang; a server forks from a clean one.
        server = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if server else "spawn") if workers else None
        if context and server:
            context.set_forkserver_preload([__name__])  # torch is imported once, not by each worker
        return torch.utils.data.DataLoader(
            self._decoder,
            batch_sampler=self._plan,  # type: ignore[arg-type]  # a batch is what `__getitems__` takes
            num_workers=workers,
            worker_init_fn=_follow_the_parent,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            multiprocessing_context=context,
            generator=torch.Generator(),  # else it draws from the global one
        )


def _follow_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent may want another batch yet
    # torch's worker looks whether the server lives, and the server whether a worker does: both would stay for ever.
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


Source = Images | Stream


class _Plan:
    # The batches of the current epoch; the loader (and its workers) outlives the epochs.
    def __init__(self) -> None:
        self.batches: list[tuple[int, int, NDArray[np.int64]]] = []

    def __iter__(self) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Decoder(torch.utils.data.Dataset[Any]):
    # What a worker runs. The random crop of an image depends on (seed, epoch, index) alone: neither on the number of
    # workers nor on what was decoded before.
    def __init__(self, dataset: Dataset, config: DataConfig, augment: AugmentConfig) -> None:
        self.dataset = dataset
        self.config = config
        self.augment = augment if augment.crop == "random_resized" else None

    def __getitems__(self, plan: tuple[int, int, NDArray[np.int64]]) -> Batch | DataError:
        seed, epoch, indices = plan
        size = self.config.image_size
        images = np.empty((len(indices), self.config.channels, size, size), dtype=np.uint8)
        try:
            for row, index in enumerate(indices):
                images[row] = self._pixels(seed, epoch, int(index))
        except DataError as error:
            # Raised in a worker it would come with the worker's traceback as its text.
            return type(error)(f"{error}; with data.check=true a training names all such images before it begins")
        return torch.from_numpy(images), torch.from_numpy(self.dataset.labels[indices])

    def _pixels(self, seed: int, epoch: int, index: int) -> NDArray[np.uint8]:
        image = self.dataset.image(index)
        size = self.config.image_size
        if self.augment is None:
            return to_pixels(image, self.config, size, self.dataset.where(index))
        generator = np.random.default_rng([seed, epoch, index])
        scale, ratio = self.augment.scale, self.augment.ratio
        top, left, height, width = random_boxes(image.height, image.width, scale, ratio, generator, count=1)[0]
        box = (left, top, left + width, top + height)
        resampling = Image.Resampling[self.config.interpolation.upper()]
        return planes(with_channels(image, self.config.channels).resize((size, size), resampling, box=box))


def _as_it_is(batch: Any) -> Any:
    return batch
