"""scikit-learn's digits: 1,797 real 8x8 grey images that come with the package, so nothing is downloaded."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.dataset import find_split, missing_split, split_off
from bcdnet.errors import DataError

TEST_SIZE = 360  # 20 % of 1,797


class Digits:
    """`train` (1,437 images) or `test` (360), split stratified by class and always in the same way.

    Pixels come as 0..16 in the source and become 0..255.
    """

    def __init__(self, split: str) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError("digits: needs scikit-learn; pip install 'bcdnet[train]'") from None
        name = find_split(split, ("train", "test"))
        if name is None:
            raise missing_split("digits", split, ("train", "test"))
        source = load_digits()
        labels = source.target.astype(np.int64)
        train, test = split_off(labels, TEST_SIZE)
        self._rows = train if name == "train" else test
        self._pixels = np.rint(source.images[self._rows] * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = labels[self._rows]
        self.class_names = [str(name) for name in source.target_names]
        self.groups: NDArray[np.int64] | None = None
        self.window = len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """An 8x8 image of mode L."""
        return Image.fromarray(self._pixels[index])

    def where(self, index: int) -> str:
        """The row in scikit-learn's table."""
        return f"digits, row {self._rows[index]}"
