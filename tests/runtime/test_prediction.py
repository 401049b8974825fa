"""What is said, and painted, of logits and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image

from bcdnet.errors import DataError
from bcdnet.runtime.annotate import annotate
from bcdnet.runtime.prediction import Prediction, rank


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_no_prediction(odd: float) -> None:
    logits = np.array([[1, 2, 3], [1, odd, 3]], np.float32)
    assert rank(logits[:1], ["a", "b", "c"], 1)[0][0].label == "c"
    with pytest.raises(DataError, match="logits of 1 images are not finite"):
        rank(logits, ["a", "b", "c"], 1)


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
