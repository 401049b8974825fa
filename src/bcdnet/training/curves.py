"""A run's learning curves as one picture."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bcdnet.figures import blank_figure, literal, save_figure

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#8c8c8c"
MARKED = 25  # with more points, markers hide the line


def draw_curves(rows: list[dict[str, str]], path: Path, title: str) -> None:
    """Losses and top-1 by epoch, the recipe's steps one after another, from the rows of `metrics.csv`; a PNG at `path`.

    Training and evaluation have a loss each: a teacher, its temperature or soft labels make them different quantities.
    """
    figure = blank_figure(9, 7.6)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1, 1.6])
    lines = (("train_loss",), ("val_loss",), ("train_top1", "val_top1"))
    rows = [row for row in rows if row["event"] == "epoch"]
    begin = 0.0
    for step in dict.fromkeys(row["step"] for row in rows):
        own = [row for row in rows if row["step"] == step]
        epochs = begin + np.array([float(row["epoch"]) for row in own])
        for axes, keys in zip(panels, lines, strict=True):
            if begin:
                axes.axvline(begin, color="black", lw=0.8, ls=":")
            for key in keys:
                draw_line(axes, epochs, own, key)
        middle = ((begin + epochs[-1]) / 2, 1)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
        panels[0].annotate(literal(step), middle, (0, 5), **place)
        begin = float(epochs[-1])
    figure.suptitle(literal(title))
    panels[0].set(ylabel="training loss", xlim=(0, 1.03 * begin or 1))
    panels[1].set(ylabel="evaluation loss")
    panels[2].set(ylabel="top-1 accuracy (%)", xlabel="epochs", ylim=top1_limits(rows))
    panels[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[2].get_legend_handles_labels()
    first = dict(reversed(list(zip(labels, handles, strict=True))))  # one entry for the lines of all steps
    panels[2].legend(first.values(), first.keys(), frameon=False, loc="best")
    save_figure(figure, path)


def draw_line(axes: Axes, epochs: NDArray[np.float64], rows: list[dict[str, str]], key: str) -> None:
    """One column of one step, where it has values. The last top-1 of an evaluation is written beside its point."""
    points = [(at, float(row[key])) for at, row in zip(epochs, rows, strict=True) if row[key]]
    if not points:
        return
    x, y = zip(*points, strict=True)
    if key.startswith("train"):
        axes.plot(x, y, color=GREY, lw=1.4, label="training")
        return
    colour = ORANGE if key == "val_top1" else BLUE
    marker = "o" if len(points) <= MARKED else None
    axes.plot(x, y, color=colour, lw=1.8, marker=marker, ms=3.5, label="evaluation")
    if key == "val_top1":
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.85}
        place: dict[str, Any] = {"xytext": (-6, -20), "textcoords": "offset points", "ha": "right", "va": "top"}
        axes.annotate(f"{y[-1]:.2f} %", (x[-1], y[-1]), color=colour, fontweight="bold", bbox=box, **place)


def top1_limits(rows: list[dict[str, str]]) -> tuple[float, float]:
    """From a little below what most epochs reach (the first ones may lie outside) to a little above the best."""
    values = [float(row[key]) for row in rows for key in ("train_top1", "val_top1") if row[key]]
    if not values:
        return 0.0, 100.0
    low, high = float(np.quantile(values, 0.08)), max(values)
    margin = max(1.0, 0.12 * (high - low))
    return max(0.0, low - margin), min(100.5, high + margin)
