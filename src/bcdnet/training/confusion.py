"""A confusion matrix as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bcdnet.files import whole_file

NAMED = 40  # with more classes, names and numbers would not be readable


def draw_confusion(confusion: NDArray[np.int64], class_names: list[str], path: Path, title: str) -> None:
    """`confusion`: int64 [K, K], true class by row; a PNG at `path`, coloured by row, with counts up to 20 classes."""
    classes = len(class_names)
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 2.6 + min(max(classes, 6), NAMED) * (0.5 if classes <= 20 else 0.26)
    figure = Figure(figsize=(side + 0.8, side), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        figure.savefig(beside)
