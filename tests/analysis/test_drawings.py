"""The pictures of `bcdnet analyze`: what they show is what was computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bcdnet.analysis import binarisation, field, flips, thresholds

BLUE, ORANGE, GREEN = "#2a6fbb", "#e07b28", "#4c9a52"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    figures: list[Figure] = []
    for module in (binarisation, field, flips, thresholds):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def lines(axes: Axes) -> dict[str, Any]:
    """The named lines: label -> points [n, 2]."""
    return {str(line.get_label()): np.transpose(line.get_data()).tolist() for line in axes.lines}


def bars(axes: Axes) -> list[tuple[float, float, str]]:
    """Middle, height and colour of each, in the order drawn."""
    shown = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(bar.get_x() + bar.get_width() / 2, bar.get_height(), to_hex(bar.get_facecolor())) for bar in shown]


def test_flips(drawn: list[Figure]) -> None:
    epochs = [flips.EpochFlips("a", 1, 0.25), flips.EpochFlips("a", 2, 0.125), flips.EpochFlips("b", 1, 0.5)]
    layers = [flips.LayerFlips("stages.0.conv", 30, 0.1), flips.LayerFlips("stages.1.convs.long", 10, 0.5)]
    flips.draw(flips.Flips(epochs, layers, "step1", "step2"), Path("x.svg"), "the title")
    by_epoch, by_layer = drawn[0].axes
    assert lines(by_epoch) == {"a": [[1, 25], [2, 12.5]], "b": [[3, 50]]} and by_epoch.get_yscale() == "log"
    assert bars(by_layer) == [(1, 10, BLUE), (2, 50, ORANGE)]
    assert by_layer.lines[0].get_ydata() == pytest.approx([20, 20])  # of all 40 weights 8
    assert by_layer.get_title(loc="right") == "20.0 % of all weights"
    assert by_layer.get_ylabel() == "flipped from step1 to step2 (%)"
    assert drawn[0].get_suptitle() == "the title"

    epochs = [flips.EpochFlips("a", 2, 0.5), flips.EpochFlips("a", 2.5, 0.5), flips.EpochFlips("b", 1, 0.5)]
    flips.draw(flips.Flips(epochs, [], "", ""), Path("x.svg"), "x")  # a log without a first epoch, a last one cut short
    assert lines(drawn.pop().axes[0]) == {"a": [[2, 50], [2.5, 50]], "b": [[3.5, 50]]}

    flips.draw(flips.Flips([flips.EpochFlips("a", 1, 0.0)], [], "", ""), Path("x.svg"), "x")
    (alone,) = drawn[1].axes
    assert lines(alone) == {"a": [[1, 0]]} and alone.get_yscale() == "linear"  # which shows a rate of none


def test_errors_of_branches(drawn: list[Figure]) -> None:
    rows = (("x", "none", 0.2), ("x", "long_1", 0.5), ("y", "none", 0.4), ("y", "long_1", 0.6))
    binarisation.draw([binarisation.BranchError(*row) for row in rows], Path("x.svg"), "the title")
    (axes,) = drawn[0].axes
    heights = [(height, colour) for _, height, colour in bars(axes)]
    assert heights == [(0.2, BLUE), (0.4, BLUE), (0.5, ORANGE), (0.6, ORANGE)]
    assert [middle for middle, _, _ in bars(axes)] == pytest.approx([0.8, 1.8, 1.2, 2.2])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["no shift", "long range 1"]


def test_fields(drawn: list[Figure]) -> None:
    near, far = np.zeros((2, 2)), np.full((2, 2), 0.25)
    near[0, 0] = 1
    fields = {"with": field.Field(far, {0.9: 1.0}, 1.0), "without": field.Field(near, {0.9: 0.25}, 0.0)}
    field.draw(fields, Path("x.svg"), "the title")
    images = [axes.images[0].get_array() for axes in drawn[0].axes[:2]]
    assert np.array_equal(images[0], np.full((2, 2), 0.5)) and np.array_equal(images[1], near)
    titles = [axes.get_title() for axes in drawn[0].axes[:2]]
    assert titles == [
        "with the long range:\n90 % of it in 100 % of the pixels",
        "without:\n90 % of it in 25 % of the pixels",
    ]
    assert lines(drawn[0].axes[2]) == {
        "with the long range": [[25, 25], [50, 50], [75, 75], [100, 100]],
        "without": [[25, 100], [50, 100], [75, 100], [100, 100]],
    }


def test_thresholds(drawn: list[Figure]) -> None:
    low = thresholds.Spread((-2.0, -1.0, 0.0, 1.0, 2.0), 1.0, 0.25)
    high = thresholds.Spread((1.0, 2.0, 3.0, 4.0, 5.0), 1.0, 0.5)
    blocks = [
        thresholds.BlockThresholds("x", low, None, None, 0.125),
        thresholds.BlockThresholds("y", high, None, low, 0.25),
    ]
    means = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 1.0]])
    found = thresholds.Thresholds(blocks, {"alpha": ("y", means), "gain": ("y", means + 1)})
    thresholds.draw(found, ["cat", "dog"], Path("x.png"), "the title")
    alpha, gain, by_class, _ = drawn[0].axes[:4]  # and no beta, which no block has
    marks = [np.transpose(line.get_data()).tolist() for line in alpha.lines[:6]]
    assert marks[:3] == [[[1, -2], [1, 2]], [[1, -1], [1, 1]], [[1, 0]]]
    assert marks[3:] == [[[2, 1], [2, 5]], [[2, 2], [2, 4]], [[2, 3]]]
    spread, *_, neutral = (np.transpose(line.get_data()).tolist() for line in gain.lines)
    assert spread == [[2, -2], [2, 2]] and [y for _, y in neutral] == [1, 1]  # a gain of one does nothing
    assert by_class.images[0].get_array().tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert by_class.images[0].get_clim() == (-1, 1)
    assert by_class.get_title() == "alpha of y by class; classes explain 50 %"
    assert [label.get_text() for label in by_class.get_yticklabels()] == ["cat", "dog"]
    turned = next(axes for axes in drawn[0].axes if "turned over" in axes.get_ylabel())
    assert np.transpose(turned.lines[0].get_data()).tolist() == [[1, 12.5], [2, 25]]


def test_nothing_is_said_of_classes_with_one_image_each(drawn: list[Figure]) -> None:
    spread = thresholds.Spread((-1.0, 0.0, 0.0, 0.0, 1.0), 1.0, None)
    block = thresholds.BlockThresholds("x", None, spread, None, 0.0)
    found = thresholds.Thresholds([block], {"beta": ("x", np.eye(2))})
    thresholds.draw(found, ["cat", "dog"], Path("x.png"), "the title")
    assert drawn[0].axes[1].get_title() == "beta of x by class"


def test_colours_reach_as_far_down_as_up(drawn: list[Figure]) -> None:
    spread = thresholds.Spread((-1.0, 0.0, 0.0, 0.0, 1.0), 1.0, 0.5)
    block = thresholds.BlockThresholds("x", None, spread, None, 0.0)
    found = thresholds.Thresholds([block], {"beta": ("x", np.array([[-6.0], [0.0], [np.nan], [0.0]]))})
    thresholds.draw(found, list("abcd"), Path("x.png"), "the title")
    assert drawn[0].axes[1].images[0].get_clim() == (-4, 4)


def test_a_class_without_images_does_not_look_like_one_without_a_difference(drawn: list[Figure]) -> None:
    spread = thresholds.Spread((-1.0, 0.0, 0.0, 0.0, 1.0), 1.0, 0.5)
    block = thresholds.BlockThresholds("x", None, spread, None, 0.0)
    for last in (np.nan, 0.0):
        found = thresholds.Thresholds([block], {"beta": ("x", np.array([[-6.0], [0.0], [6.0], [last]]))})
        thresholds.draw(found, list("abcd"), Path("x.png"), "the title")
    missing, complete = drawn
    by_class, bar = missing.axes[1:3]
    missing.canvas.draw()
    box = by_class.get_window_extent()
    pixels = np.asarray(missing.canvas.buffer_rgba())[::-1, int(box.x0 + box.width / 2), :3].astype(int)  # bottom up
    of_class = [pixels[int(box.y0 + box.height * (row + 0.5) / 4)] for row in (0, 2)]  # d without images, b as the mean
    assert np.abs(of_class[0] - of_class[1]).min() > 60
    assert np.ptp(of_class[0]) == 0 and "grey: no image" in bar.get_ylabel()
    assert "grey" not in complete.axes[2].get_ylabel()
