"""Explanations as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bcdnet.analysis.cam import Explanation
from bcdnet.analysis.titles import fill, inches_high
from bcdnet.figures import blank_figure, save_figure

HEAT, CONTRIBUTION = "turbo", "viridis"


def draw_cams(explanations: Sequence[Explanation], path: Path) -> None:
    """For each model the picture it saw and Grad-CAM over it, side by side; a PNG at `path`."""
    titles = [fill(text, 3, 10) for explanation in explanations for text in _titles(explanation)]
    figure = blank_figure(6.4 * len(explanations), 3.3 + max(inches_high(title, 10) for title in titles))
    rows = figure.subplots(1, 2 * len(explanations), squeeze=False)[0]
    for explanation, (plain, heated) in zip(explanations, rows.reshape(-1, 2), strict=True):
        height, width = explanation.heat.shape
        for axes in (plain, heated):
            # A copy of a grey picture in each channel keeps imshow from colouring it.
            picture = np.repeat(explanation.picture, 3 // explanation.picture.shape[2], axis=2)
            axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
            axes.set_axis_off()
            axes.set_anchor("S")  # all room that the picture leaves is the title's
        heated.imshow(explanation.heat, cmap=HEAT, alpha=0.55, extent=(0, width, height, 0), interpolation="bilinear")
    for axes, title in zip(rows, titles, strict=True):
        axes.set_title(title, fontsize=10)
    save_figure(figure, path)


def _titles(explanation: Explanation) -> tuple[str, str]:
    share = 100 * explanation.probabilities[explanation.label]
    return explanation.name, f"{explanation.named(explanation.label)}: {share:.1f} %"


def draw_contributions(explanation: Explanation, path: Path) -> None:
    """One column for each MLP block, one row for each branch, one colour scale within a block; a PNG at `path`."""
    blocks = explanation.contributions
    names = list(dict.fromkeys(name for block in blocks for name in block.branches))
    width = max(5, 1.3 + 1.35 * len(blocks))
    title = f"{explanation.name}: mean |output| of each branch, dark to bright within a block"
    title = fill(title, width - 0.2, 10)
    above = [fill(block.block, 1.2, 8) for block in blocks]
    most_above = max(inches_high(text, 8) for text in above)
    figure = blank_figure(width, 0.6 + 1.45 * len(names) + inches_high(title, 10) + most_above)
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(names), len(blocks), squeeze=False)
    for column, block in enumerate(blocks):
        least = min(float(found.min()) for found in block.branches.values())
        most = max(float(found.max()) for found in block.branches.values())
        for row, name in enumerate(names):
            axes = grid[row, column]
            axes.set(xticks=[], yticks=[])
            if name not in block.branches:
                axes.set_axis_off()
                continue
            axes.imshow(block.branches[name], cmap=CONTRIBUTION, vmin=least, vmax=most)
            axes.set_xlabel(f"{100 * block.shares[name]:.0f} %", fontsize=8, labelpad=2)
            if column == 0:
                axes.set_ylabel(name)
            if row == 0:
                axes.set_title(above[column], fontsize=8)
    save_figure(figure, path)
