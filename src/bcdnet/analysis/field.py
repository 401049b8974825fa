"""The effective receptive field: which pixels the middle of the last map depends on, with and without the long range.

N images, C channels, H x W pixels.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcdnet.analysis.titles import fill
from bcdnet.errors import BcdnetError, DataError
from bcdnet.figures import COLOURS, blank_figure, save_figure
from bcdnet.models import Network
from bcdnet.nn import BinaryMLPBlock, set_progress
from bcdnet.nn.sign import AnnealedEstimator

SHARES = (0.5, 0.9)


@dataclass(frozen=True)
class Field:
    """`map`: float [H, W], the mean size of the gradient at each pixel, summing to 1.

    `pixels`: for each of `SHARES`, the part of all pixels, in [0, 1], that it takes, the strongest first, to hold that
    share; `distance`: mean distance of the map, in pixels, from the middle of the square of pixels that the position
    stands for. Strided convolutions read up to half a stride above and left of it.
    """

    map: NDArray[np.float64]
    pixels: dict[float, float]
    distance: float


def receptive_fields(model: Network, batches: Iterable[Tensor]) -> dict[str, Field]:
    """{"with": Field, "without": Field}: the trained network, and the same with its long-range branches set to zero.

    The gradient of the middle position of the last map (all channels, each with the sign of its own value) with respect
    to the image, its absolute value summed over the channels and averaged over the images (Luo et al., "Understanding
    the Effective Receptive Field", NeurIPS 2016). It passes the signs by their estimator, as in training.

    `batches`: normalised images on the model's device. BcdnetError for a network without long-range branches,
    and for gradients that are not finite.
    """
    found = [block for block in model.modules() if isinstance(block, BinaryMLPBlock) and "long" in block.branches]
    if not found:
        raise BcdnetError("the network has no MLP block with a long-range branch")
    middle = (0.0, 0.0)
    sums: dict[str, Any] = {"with": 0.0, "without": 0.0}
    with _annealed(model):
        for images in batches:
            whole, middle = _gradient(model, images)
            sums["with"] += whole
            with _silenced(found):
                sums["without"] += _gradient(model, images)[0]
    return {name: _field(total.cpu().double().numpy(), middle) for name, total in sums.items()}


def _gradient(model: Network, images: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """[N, C, H, W] -> [H, W], and where among the pixels the middle position of the last map lies."""
    images = images.detach().requires_grad_()
    last = model.forward_features(images)
    row, column = (size // 2 for size in last.shape[2:])
    (gradient,) = torch.autograd.grad(last[:, :, row, column].abs().sum(), images)
    steps = [pixels / size for pixels, size in zip(images.shape[2:], last.shape[2:], strict=True)]
    return gradient.abs().sum((0, 1)), ((row + 0.5) * steps[0] - 0.5, (column + 0.5) * steps[1] - 0.5)


@contextmanager
def _annealed(model: nn.Module) -> Iterator[None]:
    """With estimators as training ends, which no file says."""
    estimators = [module for module in model.modules() if isinstance(module, AnnealedEstimator)]
    before = [float(estimator.progress) for estimator in estimators]
    set_progress(model, 1.0)
    try:
        yield
    finally:
        for estimator, progress in zip(estimators, before, strict=True):
            set_progress(estimator, progress)


@contextmanager
def _silenced(blocks: list[BinaryMLPBlock]) -> Iterator[None]:
    def nothing(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    convs = [conv for block in blocks for key, conv in block.convs.items() if key.startswith("long")]
    with ExitStack() as hooks:
        for conv in convs:
            hooks.enter_context(conv.register_forward_hook(nothing))
        yield


def _field(total: NDArray[np.float64], middle: tuple[float, float]) -> Field:
    whole = float(total.sum())
    if not np.isfinite(whole):
        raise DataError("the gradients are not finite: the model's training diverged, or it is damaged")
    if not whole:
        raise BcdnetError("the last map does not depend on the image: is the network trained?")
    share = total / whole
    order = np.sort(share.ravel())[::-1].cumsum()
    rows, columns = np.indices(share.shape)
    away = np.hypot(rows - middle[0], columns - middle[1])
    return Field(
        share,
        {part: float((np.searchsorted(order, part * order[-1]) + 1) / order.size) for part in SHARES},
        float((share * away).sum()),
    )


def to_json(fields: dict[str, Field]) -> dict[str, Any]:
    """Figures and maps as plain values."""
    return {
        f"{name}_long_range": {
            "pixels_for_share": {str(share): part for share, part in field.pixels.items()},
            "mean_distance": field.distance,
            "map": [[round(float(value), 8) for value in row] for row in field.map],
        }
        for name, field in fields.items()
    }


def draw(fields: dict[str, Field], path: Path, title: str) -> None:
    """The two maps side by side on one scale, and how far each reaches."""
    figure = blank_figure(10.5, 3.9)
    figure.suptitle(fill(title, 10.3, 12))
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": (1, 1, 1.05)})
    strongest = max(float(field.map.max()) for field in fields.values())
    labels = {"with": "with the long range", "without": "without"}
    for axes, (name, field) in zip(panels, fields.items(), strict=False):
        # The square root shows the faint far side beside the bright middle.
        image = axes.imshow(np.sqrt(field.map / strongest), cmap="magma", vmin=0, vmax=1)
        axes.set_title(f"{labels[name]}:\n90 % of it in {100 * field.pixels[0.9]:.0f} % of the pixels", fontsize=9)
        axes.set_axis_off()
    figure.colorbar(image, ax=panels[:2], shrink=0.7, label="root of the gradient", location="bottom", aspect=40)
    for (name, field), colour in zip(fields.items(), COLOURS, strict=False):
        order = np.sort(field.map.ravel())[::-1].cumsum()
        panels[2].plot(100 * np.arange(1, order.size + 1) / order.size, 100 * order, color=colour, label=labels[name])
    panels[2].set(xlabel="pixels, the strongest first (%)", ylabel="share of the gradient (%)", ylim=(0, 101))
    panels[2].grid(alpha=0.25)
    panels[2].spines[["top", "right"]].set_visible(False)
    panels[2].legend(frameon=False, loc="lower right")
    save_figure(figure, path)
