"""A confusion matrix as a picture."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcdnet.figures import blank_figure, literal, save_figure

NAMED = 40  # with more classes, names and numbers would not be readable


def draw_confusion(confusion: NDArray[np.int64], class_names: list[str], path: Path, title: str) -> None:
    """`confusion`: int64 [K, K], true class by row; a PNG at `path`, coloured by row, with counts up to 20 classes."""
    classes, class_names = len(class_names), [literal(name) for name in class_names]
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 2.6 + min(max(classes, 6), NAMED) * (0.5 if classes <= 20 else 0.26)
    figure = blank_figure(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if classes <= NAMED:
        axes.set_xticks(range(classes), class_names)
        if max(map(len, class_names)) > 3:
            axes.tick_params("x", rotation=45)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), class_names)
    if classes <= 20:
        for row in range(classes):
            for column in range(classes):
                if count := int(confusion[row, column]):
                    colour = "white" if shares[row, column] > 50 else "black"
                    axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title=literal(title))
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    save_figure(figure, path)
