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
    """Loss and top-1 by epoch, the recipe's steps side by side, from the rows of `metrics.csv`; a PNG at `path`."""
    figure = blank_figure(9, 6.2)
    loss_axes, top1_axes = figure.subplots(2, 1, sharex=True)
    rows = [row for row in rows if row["event"] == "epoch"]
    begin = 0.0
    for step in dict.fromkeys(row["step"] for row in rows):
        own = [row for row in rows if row["step"] == step]
        epochs = begin + np.array([float(row["epoch"]) for row in own])
        for axes, key, colour in ((loss_axes, "loss", BLUE), (top1_axes, "top1", ORANGE)):
            if begin:
                axes.axvline(begin, color="black", lw=0.8, ls=":")
            draw_step(axes, epochs, own, key, colour)
        middle = ((begin + epochs[-1]) / 2, 1)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
        loss_axes.annotate(literal(step), middle, (0, 5), **place)
        begin = float(epochs[-1])
    figure.suptitle(literal(title))
    loss_axes.set(ylabel="loss", xlim=(0, 1.03 * begin or 1))
    top1_axes.set(ylabel="top-1 accuracy (%)", xlabel="epochs", ylim=top1_limits(rows))
    top1_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (loss_axes, top1_axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        first = dict(reversed(list(zip(labels, handles, strict=True))))  # one entry for the lines of all steps
        axes.legend(first.values(), first.keys(), frameon=False, loc="best")
    save_figure(figure, path)


def draw_step(axes: Axes, epochs: NDArray[np.float64], rows: list[dict[str, str]], key: str, colour: str) -> None:
    """Training and evaluation of one step; `key`: loss or top1. The last top-1 is written beside its point."""
    axes.plot(epochs, [float(row[f"train_{key}"]) for row in rows], color=GREY, lw=1.4, label="training")
    evaluated = [(at, float(row[f"val_{key}"])) for at, row in zip(epochs, rows, strict=True) if row[f"val_{key}"]]
    if not evaluated:
        return
    x, y = zip(*evaluated, strict=True)
    marker = "o" if len(evaluated) <= MARKED else None
    axes.plot(x, y, color=colour, lw=1.8, marker=marker, ms=3.5, label="evaluation")
    if key == "top1":
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
