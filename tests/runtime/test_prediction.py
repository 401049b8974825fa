"""What is said, and painted, of logits and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image

from bcdnet.errors import DataError
from bcdnet.runtime.annotate import annotate
from bcdnet.runtime.prediction import Prediction, find_label, rank


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_no_prediction(odd: float) -> None:
    logits = np.array([[1, 2, 3], [1, odd, 3]], np.float32)
    assert rank(logits[:1], ["a", "b", "c"], 1)[0][0].label == "c"
    with pytest.raises(DataError, match="logits of 1 images are not finite"):
        rank(logits, ["a", "b", "c"], 1)


def test_each_image_has_its_classes_in_the_order_of_their_logits() -> None:
    logits = np.array([[0, 1, 1, 0], [1000, -1000, 1000 + np.log(3), 0]], np.float32)
    first, second = rank(logits, ["a", "b", "c", "d"], 9)
    assert [best.label for best in first] == ["b", "c", "a", "d"]  # of equals the one that comes first
    assert [best.index for best in second] == [2, 0, 3, 1]
    assert [best.probability for best in second] == pytest.approx([0.75, 0.25, 0, 0], abs=1e-4)
    assert sum(best.probability for best in first) == pytest.approx(1)
    assert [best.label for best in rank(logits, [], 2)[1]] == ["2", "0"]


def test_a_label_is_a_name_before_it_is_a_number() -> None:
    labels = ["2", "cat", "0"]
    assert [find_label(label, labels, 3) for label in ("2", "0", "cat", "1", 2)] == [0, 2, 1, 1, 2]
    for label in ("3", 3, "-1", -1, "9" * 5000):
        with pytest.raises(DataError, match=r"the classes are 0 to 2|no class is called '(-1|999)"):
            find_label(label, labels, 3)


def test_a_digit_that_is_no_number_names_no_class() -> None:
    """Which int() does not read."""
    with pytest.raises(DataError, match="no class is called '²'"):
        find_label("²", ["a", "b", "c"], 3)


def test_sixteen_bit_grey_keeps_its_shades_in_an_annotated_copy() -> None:
    ramp = np.linspace(0, 65535, 400 * 10).reshape(10, 400).astype(np.uint16)
    copy = np.asarray(annotate(Image.fromarray(ramp), [Prediction("a", 0.5, 0)]))
    np.testing.assert_array_equal(copy[:10, :, 0], ramp >> 8)


def test_labels_beyond_latin_are_written_with_a_font_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    font = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")

    def drawn(label: str, *fonts: str) -> np.ndarray:
        monkeypatch.setattr("bcdnet.runtime.annotate.FONTS", fonts)
        return np.asarray(annotate(Image.new("RGB", (320, 8)), [Prediction(label, 0.5, 0)]))

    assert np.array_equal(drawn("Ж"), drawn("Я"))  # a box
    assert np.array_equal(drawn("Ж", "absent.ttf"), drawn("Ж"))
    assert not np.array_equal(drawn("Ж", "absent.ttf", font), drawn("Я", "absent.ttf", font))
    assert np.array_equal(drawn("Möwe", font), drawn("Möwe"))


def test_bars_are_as_long_as_the_classes_are_probable() -> None:
    """Below a small picture, which is enlarged or stands in the middle."""
    predictions = [Prediction("x" * 500, 0.75, 0), Prediction("b", 0.0, 1)]
    copy = annotate(Image.new("RGB", (2, 2000), "white"), predictions)
    pixels = np.asarray(copy)
    assert copy.width == 320 and pixels[0, 0].tolist() != [255] * 3
    columns = np.flatnonzero((pixels[0] == 255).all(1))
    assert abs(columns.mean() - 159.5) <= 0.5
    bar = (pixels == (0x2F, 0x81, 0xF7)).all(2)
    rows = np.flatnonzero(bar.sum(1) > 10)
    assert len(rows) > 5 and np.ptp(rows) < 20  # of the first alone
    assert bar[rows[0]].sum() == pytest.approx(0.75 * 308, abs=2)


def test_each_bar_has_its_own_label_and_probability() -> None:
    picture, best, other = Image.new("RGB", (320, 10)), Prediction("a", 0.75, 0), Prediction("b", 0.25, 1)
    both, first, second = (np.asarray(annotate(picture, shown)) for shown in ([best, other], [best], [other]))
    line = len(both) - len(first)
    np.testing.assert_array_equal(both[-line:], second[-line:])
    np.testing.assert_array_equal(both[:-line][:-6], first[:-6])  # but for the margin below
    assert not np.array_equal(first[-line:], second[-line:])


def test_a_long_label_stays_clear_of_the_probability() -> None:
    picture = Image.new("RGB", (320, 10))
    long, none = (np.asarray(annotate(picture, [Prediction(label, 0.5, 0)])) for label in ("x" * 500, ""))
    assert (long[:, :200] != none[:, :200]).any() and np.array_equal(long[:, 270:], none[:, 270:])


@pytest.mark.parametrize("size", [(60_000, 1), (4000, 100), (4000, 3000)])
def test_the_text_below_a_strip_does_not_grow_with_its_width(size: tuple[int, int]) -> None:
    copy = annotate(Image.new("RGB", size), [Prediction("a", 0.5, 0)] * 3)
    assert copy.width == size[0] and size[1] < copy.height <= max(100, 2 * size[1])
    assert size != (4000, 3000) or copy.height > 3900  # where it is as wide as ever
