import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bcdnet.data.dataset import Subset, decode, find_split, holdout, natural_key, split_off, spread
from bcdnet.errors import DataError


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200), st.data())
def test_split_off_divides_by_class(labels, data):
    labels = np.array(labels)
    count = data.draw(st.integers(1, len(labels) - 1))
    rest, held_out = split_off(labels, count)
    assert len(held_out) == count
    assert np.array_equal(np.sort(np.concatenate([rest, held_out])), np.arange(len(labels)))
    assert (np.diff(held_out) > 0).all()
    assert (np.diff(rest) > 0).all()
    for label in np.unique(labels):
        share = (labels == label).sum() * count / len(labels)
        assert abs((labels[held_out] == label).sum() - share) <= 1
    again = split_off(labels, count)
    assert np.array_equal(again[1], held_out)


def test_a_rare_class_keeps_an_image_to_learn_from():
    labels = np.array([0] * 10 + [1] + [2])
    rest, held_out = split_off(labels, 6)
    assert len(held_out) == 6 and set(labels[rest]) == {0, 1, 2}


def test_subset_keeps_the_boundaries_of_groups(digit_set):
    class Grouped:
        groups = np.array([0, 10, 20, 30])
        window = 30
        labels = digit_set.labels[:30]
        class_names = digit_set.class_names

        def __len__(self):
            return len(self.labels)

        def image(self, index):
            return digit_set.image(index)

        def where(self, index):
            return f"row {index}"

    subset = Subset(Grouped(), np.array([0, 3, 9, 21, 29]))
    assert subset.groups.tolist() == [0, 3, 5]
    assert subset.window == 5  # as many as lie in 30 of the 30
    assert subset.where(3) == "row 21"
    assert subset.image(4).tobytes() == digit_set.image(29).tobytes()
    assert np.array_equal(subset.labels, digit_set.labels[[0, 3, 9, 21, 29]])


def test_split_names():
    assert find_split("test", ["train", "validation"]) == "validation"
    assert find_split("test", ["test", "val"]) == "test"
    assert find_split("train", ["test"]) is None
    assert find_split("test", ["Train", "Val"]) == "Val" and find_split("train", ["TRAIN"]) == "TRAIN"
    assert find_split("train", ["Train", "train"]) == "train"
    assert find_split("unlabelled", ["train", "unlabelled"]) == "unlabelled"
    assert sorted(["s-11", "s-2", "s-1"], key=natural_key) == ["s-1", "s-2", "s-11"]


def test_decode_names_what_cannot_be_decoded(encoded):
    image, _ = encoded[0]
    assert decode(image, "here").size == (8, 8)
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(jpeg, "JPEG")
    for broken in (b"", b"words", image[:40], image[:-50], jpeg.getvalue()[:-200]):
        with pytest.raises(DataError, match=r"^here: (empty image|is not an image|cannot be decoded)"):
            decode(broken, "here")


def test_whatever_a_decoder_raises_names_the_image(encoded, monkeypatch):
    def broken(*_args, **_options):
        raise TypeError("'float' object cannot be interpreted as an integer")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(DataError, match=r"^here: cannot be decoded \('float' object"):
        decode(encoded[0][0], "here")


def test_what_is_held_out_is_not_what_comes_first():
    """Files of one class often are frames of one film."""
    _, held_out = split_off(np.zeros(100, dtype=np.int64), 10)
    assert held_out.min() < 50 < held_out.max()


def test_a_picture_whose_numbers_have_no_known_range_is_refused():
    """Pillow would cut them to 0 and 255: of numbers from 0 to 1 all is black."""
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(stream, "TIFF")
    with pytest.raises(DataError, match=r"^here: holds floating-point numbers"):
        decode(stream.getvalue(), "here")


@given(st.integers(0, 500), st.integers(1, 40))
def test_what_is_looked_at_is_spread_over_the_whole(length, most):
    chosen = spread(length, most)
    assert len(chosen) == min(most, length) and set(chosen[:1]) <= {0}
    if len(chosen) > 1:
        assert chosen[-1] == length - 1
        assert (abs(np.diff(chosen) - (length - 1) / (len(chosen) - 1)) <= 1).all()


def test_a_part_that_is_divided_off_is_the_same_in_capitals(digit_set):
    train, test = split_off(digit_set.labels, round(0.1 * len(digit_set)))
    for names, rows in ((("train", "Train"), train), (("test", "TEST"), test)):
        for name in names:
            part = holdout(digit_set, name, "digits")
            assert [part.where(index) for index in range(len(part))] == [digit_set.where(row) for row in rows]
