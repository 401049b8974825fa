"""Batches of an epoch, in an order that seed and epoch determine, from any batch on."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from bcdnet.data.sources import Batch, Source
from bcdnet.errors import RecipeError


class Batches:
    """`batches(epoch, start=0)` yields (images uint8 [B, C, H, W], labels int64 [B]) on `device`.

    `batch_size` is the global one: of each batch, rank r of `world_size` gets the images r, r + world_size, …, so that
    the parts of all ranks together are what one process would see. Every rank counts the same number of batches; if
    `drop_last` is False, a rank's part of the last one may be smaller, or empty.

    An epoch's order is a pure function of (seed, epoch) on every device; `start` skips batches without reading them,
    which is all that an exact resume needs. With `shuffle` False it is the set's own order. A set in memory is moved to
    `device` once if that is a GPU with room for it.

    Raises RecipeError: a batch size that the ranks cannot share, or no full batch.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int = 0,
        drop_last: bool = False,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise RecipeError(f"batch_size: {batch_size} must be a positive multiple of the {world_size} processes")
        if drop_last and len(source) < batch_size:
            raise RecipeError(f"batch_size: {batch_size} is more than the {len(source)} images of the split")
        self.device = _with_index(torch.device(device))
        self.source = source.to(self.device)
        self.batch_size = batch_size
        self.seed = seed % (1 << 64)  # numpy takes no negative ones
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self._latest: tuple[int, NDArray[np.int64]] | None = None  # an epoch and its order

    def __len__(self) -> int:
        """Number of batches of an epoch, the same on all ranks."""
        return len(self.source) // self.batch_size if self.drop_last else -(-len(self.source) // self.batch_size)

    def __call__(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches `start`, `start` + 1, … of an epoch."""
        parts = (self.indices(epoch, number) for number in range(start, len(self)))
        return self.source.fetch(parts, self.seed, epoch, self.device)

    def indices(self, epoch: int, number: int) -> NDArray[np.int64]:
        """int64 indices into the source of this rank's part of batch `number`."""
        order = self._order(epoch)
        begin = number * self.batch_size
        return order[begin : begin + self.batch_size][self.rank :: self.world_size]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(len(self.source))
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self.source.order(self.seed, epoch))
        return self._latest[1]


def _with_index(device: torch.device) -> torch.device:
    # `cuda` and `cuda:0` compare as different although they are the same.
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
