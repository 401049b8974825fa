"""How the analyses' figures look."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bcdnet.files import whole_file

COLOURS = ("#2a6fbb", "#e07b28", "#4c9a52", "#8d5aa5", "#777777")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, tidy(figure.subplots())


def tidy(axes: Axes) -> Axes:
    """No box, a faint grid behind the data."""
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save_figure(figure: Figure, path: Path) -> None:
    """As its suffix says; the same figure gives the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "bcdnet"}), whole_file(path) as beside:
        figure.savefig(beside, metadata={"Date": None} if path.suffix == ".svg" else None)
