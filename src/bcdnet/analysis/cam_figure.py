"""Explanations as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bcdnet.analysis.cam import Explanation
from bcdnet.figures import blank_figure, literal, save_figure

HEAT, CONTRIBUTION = "turbo", "viridis"


def draw_cams(explanations: Sequence[Explanation], path: Path) -> None:
    """For each model the picture it saw and Grad-CAM over it, side by side; a PNG at `path`."""
    figure = blank_figure(6.4 * len(explanations), 3.7)
    rows = figure.subplots(1, 2 * len(explanations), squeeze=False)[0]
    for explanation, (plain, heated) in zip(explanations, rows.reshape(-1, 2), strict=True):
        height, width = explanation.heat.shape
        for axes in (plain, heated):
            # A copy of a grey picture in each channel keeps imshow from colouring it.
            picture = np.repeat(explanation.picture, 3 // explanation.picture.shape[2], axis=2)
            axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
            axes.set_axis_off()
        heated.imshow(explanation.heat, cmap=HEAT, alpha=0.55, extent=(0, width, height, 0), interpolation="bilinear")
        plain.set_title(literal(explanation.name), fontsize=10)
        share = 100 * explanation.probabilities[explanation.label]
        heated.set_title(literal(f"{explanation.named(explanation.label)}: {share:.1f} %"), fontsize=10)
    save_figure(figure, path)


def draw_contributions(explanation: Explanation, path: Path) -> None:
    """One column for each MLP block, one row for each branch, one colour scale within a block; a PNG at `path`."""
    blocks = explanation.contributions
    names = list(dict.fromkeys(name for block in blocks for name in block.branches))
    figure = blank_figure(1.3 + 1.35 * len(blocks), 0.9 + 1.45 * len(names))
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
                axes.set_title(block.block, fontsize=8)
    title = f"{explanation.name}: mean |output| of each branch, dark to bright within a block"
    figure.suptitle(literal(title), fontsize=10)
    save_figure(figure, path)
