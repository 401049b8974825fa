"""Figures take any name: of a class, a step, a file."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from bcdnet import figures
from bcdnet.figures import blank_figure, literal, save_figure
from bcdnet.training.confusion import draw_confusion
from bcdnet.training.curves import draw_curves

NAMES = ["$\\frac$", "a $x_$ b", "\ud800", "US$ or A$", "line\nbreak"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    figure = blank_figure(2, 2)
    drawn = figure.suptitle(literal(name))
    save_figure(figure, tmp_path / "sub" / "a.svg")
    assert (tmp_path / "sub" / "a.svg").stat().st_size > 0
    assert drawn.get_text().replace(r"\$", "$").isprintable()


def test_a_name_in_another_script_is_drawn_with_another_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fonts, error in (((), pytest.raises(UserWarning, match="missing")), (("absent", "STIXGeneral"), nullcontext())):
        monkeypatch.setattr(figures, "CJK_FONTS", fonts)
        figure = blank_figure(2, 2)
        figure.suptitle("\N{MATHEMATICAL SCRIPT CAPITAL A}")  # STIXGeneral comes with matplotlib
        with error:
            save_figure(figure, tmp_path / "a.png")


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    draw_confusion(np.eye(len(NAMES), dtype=np.int64), NAMES, tmp_path / "confusion.png", NAMES[0])
    row = {"event": "epoch", "epoch": "1", "train_loss": "1", "train_top1": "50", "val_loss": "1", "val_top1": "50"}
    draw_curves([row | {"step": name} for name in NAMES], tmp_path / "curves.png", NAMES[1])
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "curves.png"}
