"""Figures take any name: of a class, a step, a file."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

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


@pytest.mark.filterwarnings("error")
def test_a_name_in_another_script_is_drawn_with_another_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no font has its letters they are boxes, and nothing is said of it."""
    pictures = []
    for fonts in ((), ("absent", "STIXGeneral")):
        monkeypatch.setattr(figures, "CJK_FONTS", fonts)
        figure = blank_figure(2, 2)
        figure.suptitle("\N{MATHEMATICAL SCRIPT CAPITAL A}")  # STIXGeneral comes with matplotlib
        save_figure(figure, tmp_path / "a.png")
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] != pictures[1]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    figures: list[Figure] = []
    for module in ("confusion", "curves"):
        monkeypatch.setattr(f"bcdnet.training.{module}.save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_a_confusion_has_the_true_class_by_row(drawn: list[Figure]) -> None:
    draw_confusion(np.array([[3, 1], [0, 8]]), ["a", "b"], Path("x.png"), "x")
    axes = drawn[0].axes[0]
    assert np.array_equal(axes.images[0].get_array(), [[75, 25], [0, 100]])
    assert {text.get_text(): text.get_position() for text in axes.texts} == {"3": (0, 0), "1": (1, 0), "8": (1, 1)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_curves_of_two_steps_stand_side_by_side(drawn: list[Figure]) -> None:
    def row(step: str, epoch: int, top1: str) -> dict[str, str]:
        values = {"train_loss": "4", "train_top1": "40", "val_loss": "3" if top1 else "", "val_top1": top1}
        return {"event": "epoch", "step": step, "epoch": f"{epoch}", **values}

    draw_curves([row("a", 1, ""), row("a", 2, "50"), row("b", 1, "60")], Path("x.png"), "x")
    training_loss, evaluation_loss, top1 = (
        [
            (line.get_label(), np.transpose(line.get_data()).tolist())
            for line in axes.lines
            if line.get_label()[0] != "_"
        ]
        for axes in drawn[0].axes
    )
    assert training_loss == [("training", [[1, 4], [2, 4]]), ("training", [[3, 4]])]
    assert evaluation_loss == [("evaluation", [[2, 3]]), ("evaluation", [[3, 3]])]
    assert top1 == [
        ("training", [[1, 40], [2, 40]]),
        ("evaluation", [[2, 50]]),
        ("training", [[3, 40]]),
        ("evaluation", [[3, 60]]),
    ]


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    draw_confusion(np.eye(len(NAMES), dtype=np.int64), NAMES, tmp_path / "confusion.png", NAMES[0])
    row = {"event": "epoch", "epoch": "1", "train_loss": "1", "train_top1": "50", "val_loss": "1", "val_top1": "50"}
    draw_curves([row | {"step": name} for name in NAMES], tmp_path / "curves.png", NAMES[1])
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "curves.png"}
