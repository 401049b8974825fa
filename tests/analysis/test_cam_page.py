"""The page and the pictures of `bcdnet explain`: what they say of one model's view is what was computed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from bcdnet.analysis import cam_figure
from bcdnet.analysis.cam import Contributions, Explanation
from bcdnet.analysis.cam_page import render


@pytest.fixture
def explanation() -> Explanation:
    """Asked for a class that is not the best; two blocks of which one has a branch that the other lacks."""
    blocks = [
        Contributions("x", {"none": np.full((2, 2), 3.0, np.float32), "long": np.float32([[0.5, 1.5], [1, 1]])}),
        Contributions("y", {"none": np.full((2, 2), 8.0, np.float32), "short": np.full((2, 2), 2.0, np.float32)}),
    ]
    probabilities = np.array([0.1, 0.02, 0.5, 0.25, 0.08, 0.05])
    picture, heat = np.zeros((4, 6, 1), np.float32), np.zeros((4, 6), np.float32)
    return Explanation("mine", picture, heat, 3, probabilities, [*"abcdef"], blocks)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(cam_figure, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_the_page_lists_the_best_classes_and_the_shares_of_the_branches(
    explanation: Explanation, tmp_path: Path
) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"")
    tables = re.findall(r"<table>.*?</table>", render("title", [explanation], picture, [picture]))
    cells = [[re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>.*?</tr>", t)] for t in tables]
    best = [("c", "50.0 %"), ("d", "25.0 %"), ("a", "10.0 %"), ("e", "8.0 %"), ("f", "5.0 %")]
    assert cells[0] == [["class", "probability"], *map(list, best)]
    assert cells[1] == [
        ["block", "none", "long", "short"],
        ["x", "75.0 %", "25.0 %", ""],
        ["y", "80.0 %", "", "20.0 %"],
    ]


def test_the_heat_is_titled_with_the_class_that_was_asked_for(explanation: Explanation, drawn: list[Figure]) -> None:
    cam_figure.draw_cams([explanation], Path("x.png"))
    assert [axes.get_title() for axes in drawn[0].axes] == ["mine", "d: 25.0 %"]


def test_branches_share_the_colours_of_their_block(explanation: Explanation, drawn: list[Figure]) -> None:
    cam_figure.draw_contributions(explanation, Path("x.png"))
    grid = np.array(drawn[0].axes).reshape(3, 2)
    shown = [[axes.images[0].get_clim() if axes.images else None for axes in row] for row in grid]
    assert shown == [[(0.5, 3), (2, 8)], [(0.5, 3), None], [None, (2, 8)]]
    labels = [[axes.get_xlabel() for axes in row] for row in grid]
    assert labels == [["75 %", "80 %"], ["25 %", ""], ["", "20 %"]]
    assert [axes.get_title() for axes in grid[0]] == ["x", "y"]
