"""Titles of figures: whole and apart, however long the names of models, runs, classes and blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from bcdnet.analysis import binarisation, cam_figure, field, flips, thresholds
from bcdnet.analysis.cam import Contributions, Explanation
from bcdnet.analysis.titles import fill, inches_high
from bcdnet.figures import blank_figure

PATHS = ("/home/somebody/runs/of-this-year/first/model.bcdn", "/home/somebody/runs/of-this-year/second/model.bcdn")
PLANE = "plane, carpenter's plane, woodworking plane"
RUN = "2026-11-24-cifar100-quarter-width-taught-s0"
SHOWN = f"binarisation error of the branches: {RUN}, 10000 images"
BRANCHES = ("none", "short_1", "long_1")


def explanation(
    name: str = PATHS[0],
    label: str = PLANE,
    blocks: int = 3,
    path: str = "stages.3.0.mlp",
    size: tuple[int, int] = (4, 4),
) -> Explanation:
    maps = [Contributions(path, dict.fromkeys(BRANCHES, np.ones((2, 2), np.float32))) for _ in range(blocks)]
    picture, heat = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    return Explanation(name, picture, heat, 0, np.array([0.189, 0.811]), [label, "b"], maps)


def draw_thresholds(parts: tuple[str, ...], title: str) -> None:
    spread = thresholds.Spread((-2.0, -1.0, 0.0, 1.0, 2.0), 1.0, 0.25)
    alpha, beta, gain = (spread if part in parts else None for part in thresholds.PARTS)
    block = thresholds.BlockThresholds("body.stages.12.blocks.10.conv1", alpha, beta, gain, 0.1)
    means = np.random.default_rng(0).normal(size=(3, 4))
    found = thresholds.Thresholds([block], dict.fromkeys(parts, (block.block, means)))
    thresholds.draw(found, ["cat", PLANE * 3, "eel"], Path("x.png"), title)


def draw_flips(title: str) -> None:
    epochs = [flips.EpochFlips("a", 1, 0.25), flips.EpochFlips("a", 2, 0.125)]
    flips.draw(flips.Flips(epochs, [flips.LayerFlips("x", 30, 0.1)], "step1", "step2"), Path("x.svg"), title)


def draw_fields(title: str) -> None:
    fields = {name: field.Field(np.full((4, 4), 1 / 16), {0.9: 0.9}, 1.0) for name in ("with", "without")}
    field.draw(fields, Path("x.png"), title)


def draw_errors(title: str) -> None:
    binarisation.draw([binarisation.BranchError("x", name, 0.4) for name in BRANCHES], Path("x.svg"), title)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: cam_figure.draw_cams([explanation(name) for name in PATHS], Path("x.png")),
        lambda: cam_figure.draw_cams([explanation(label="W" * 90)], Path("x.png")),
        lambda: cam_figure.draw_cams([explanation(PATHS[0], "a", size=(4, 8))] * 2, Path("x.png")),
        lambda: cam_figure.draw_cams([explanation(PATHS[0], PLANE, size=(8, 4))] * 2, Path("x.png")),
        lambda: cam_figure.draw_contributions(explanation(blocks=1), Path("x.png")),
        lambda: cam_figure.draw_contributions(explanation(path="body.stages.12.blocks.10.mlp"), Path("x.png")),
        lambda: draw_errors(SHOWN),
        lambda: draw_errors("W" * 150),
        lambda: draw_fields(3 * SHOWN),
        lambda: draw_flips(3 * SHOWN),
        lambda: draw_thresholds(("alpha", "beta", "gain"), 3 * SHOWN),
        lambda: draw_thresholds(("beta",), SHOWN),
    ],
)
def test_titles_are_whole_and_apart(draw: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    for module in (binarisation, cam_figure, field, flips, thresholds):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    draw()
    (figure,) = figures
    figure.canvas.draw()
    whole = [text for text in figure.texts if text.get_text()]
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    boxes = {text.get_text(): text.get_window_extent() for text in whole + titles}
    assert boxes
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height, text
    for one, other in combinations([text.get_window_extent() for text in whole + titles], 2):
        assert not one.overlaps(other), boxes
    for axes in (title.axes for title in titles if title.axes):
        assert axes.get_window_extent().height > 0.8 * figure.dpi  # the titles left room for what they are titles of


@settings(deadline=None, max_examples=30)
@given(st.text("iW-/ $_%", max_size=80), st.sampled_from([1.0, 3.0]), st.sampled_from([8, 12]))
def test_lines_fit_and_lose_nothing(text: str, inches: float, size: float) -> None:
    filled = fill(text, inches, size)
    assert filled.replace(r"\$", "$").replace("\n", "").replace(" ", "") == text.replace(" ", "")
    figure = blank_figure(4, 4)
    for line in filled.split("\n"):
        box = Text(0, 0, line, fontsize=size, figure=figure).get_window_extent()
        assert box.width <= inches * figure.dpi
    height = Text(0, 0, filled, fontsize=size, figure=figure).get_window_extent().height
    assert height <= inches_high(filled, size) * figure.dpi


def test_wide_letters_are_counted_as_such() -> None:
    assert max(map(len, fill("汉" * 40, 3, 10).split("\n"))) == 20  # the font that will show them may not be here
    assert fill("a\nb", 3, 10) == r"a\nb"
