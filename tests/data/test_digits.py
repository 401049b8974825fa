import numpy as np
import pytest

from bcdnet.data.digits import Digits
from bcdnet.errors import DataError


def test_both_splits_are_all_digits_once():
    train, test = Digits("train"), Digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == test.class_names == [str(digit) for digit in range(10)]
    rows = {dataset.where(index) for dataset in (train, test) for index in range(len(dataset))}
    assert len(rows) == 1797
    # Every class has its share in test, to one image.
    sizes = np.bincount(train.labels) + np.bincount(test.labels)
    assert np.abs(np.bincount(test.labels) - sizes * 360 / 1797).max() < 1


def test_the_split_is_the_same_in_every_version():
    """Figures of one version are compared with those of another."""
    assert [Digits("test").where(index) for index in (0, 359)] == ["digits, row 3", "digits, row 1793"]


def test_pixels_use_the_whole_range():
    train = Digits("train")
    pixels = np.stack([np.asarray(train.image(index)) for index in range(50)])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (50, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_other_splits_are_refused():
    with pytest.raises(DataError, match=r"digits: no split 'extra' \(found: train, test\)"):
        Digits("extra")
