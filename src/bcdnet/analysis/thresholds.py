"""The dynamic embedding at work: how alpha, beta and the gain vary from image to image and from class to class.

N images, I/O channels in/out, K classes.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn

from bcdnet.analysis.titles import fill
from bcdnet.errors import BcdnetError
from bcdnet.evaluation import check_logits
from bcdnet.figures import COLOURS, blank_figure, literal, save_figure, tidy
from bcdnet.nn import ContextualConvBlock, sign

PARTS = ("alpha", "beta", "gain")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NO_IMAGE = "#a0a0a0"  # the colour map shows what does not differ as almost white


@dataclass(frozen=True)
class Spread:
    """One vector (alpha, beta or gain) of one block over images and channels.

    `quantiles`: at 5, 25, 50, 75, 95 % of all values; `image_std`: standard deviation over the images, the mean of the
    channels; `class_share`: part of the variance over the images that the class explains (0: none, 1: all of it), less
    what as many means explain by chance (epsilon squared); None where no class has two images, which tell nothing.
    """

    quantiles: tuple[float, ...]
    image_std: float
    class_share: float | None


@dataclass(frozen=True)
class BlockThresholds:
    """`flipped`: share of the block's binary activations that alpha turns over, against sign(A + b)."""

    block: str
    alpha: Spread | None
    beta: Spread | None
    gain: Spread | None
    flipped: float


@dataclass(frozen=True)
class Thresholds:
    """All blocks, in order, and for each part by class the mean of the block in which the class explains most.

    `by_class`: part (of `PARTS`, those there are) -> (block, float [K, channels]).
    """

    blocks: list[BlockThresholds]
    by_class: dict[str, tuple[str, NDArray[np.float64]]]


@torch.no_grad()
def thresholds(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> Thresholds:
    """Collect alpha, beta and gain of every block over batches of (normalised images [N, C, H, W], labels [N]).

    Raises BcdnetError for a network without a dynamic embedding, DataError for logits that are not finite.
    """
    blocks = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, ContextualConvBlock) and module.embedding is not None
    }
    if not blocks:
        raise BcdnetError("the network has no dynamic embedding")
    vectors: dict[tuple[str, str], list[Tensor]] = {}
    flips = {path: [0, 0] for path in blocks}

    def record(path: str, block: ContextualConvBlock, inputs: tuple[Tensor]) -> None:
        assert block.embedding is not None
        (x,) = inputs
        for part, value in zip(PARTS, block.embedding(x), strict=True):
            if value is not None:
                vectors.setdefault((path, part), []).append(value.flatten(1).cpu().double())
                if part == "alpha":
                    bias: Any = block.binarize.bias  # RSign's: blocks that have none take no alpha
                    shifted = x + bias.view(1, -1, 1, 1)
                    flips[path][0] += int((sign(shifted - value) != sign(shifted)).sum())
        flips[path][1] += x.numel()

    labels: list[Tensor] = []
    with ExitStack() as hooks:
        for path, block in blocks.items():
            hooks.enter_context(block.register_forward_pre_hook(partial(record, path)))
        for images, targets in batches:
            check_logits(model(images).cpu().numpy())
            labels.append(targets.cpu())
    classes = torch.cat(labels).numpy()
    values = {key: torch.cat(parts).numpy() for key, parts in vectors.items()}
    spreads = {key: _spread(value, classes, num_classes) for key, value in values.items()}
    rows = [
        BlockThresholds(
            path,
            spreads.get((path, "alpha")),
            spreads.get((path, "beta")),
            spreads.get((path, "gain")),
            flips[path][0] / flips[path][1],
        )
        for path in blocks
    ]
    by_class = {}
    for part in PARTS:
        own = {path: found.class_share or 0.0 for (path, kind), found in spreads.items() if kind == part}
        if own:
            path = max(own, key=lambda name: own[name])
            by_class[part] = (path, _class_means(values[path, part], classes, num_classes))
    return Thresholds(rows, by_class)


def _class_means(values: NDArray[np.float64], classes: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """[N, channels] -> [K, channels]; NaN for a class without images."""
    means = np.full((num_classes, values.shape[1]), np.nan)
    for k in np.unique(classes):
        means[k] = values[classes == k].mean(0)
    return means


def _spread(values: NDArray[np.float64], classes: NDArray[np.int64], num_classes: int) -> Spread:
    variance = values.var(0)
    means = _class_means(values, classes, num_classes)[classes]
    between = ((means - values.mean(0)) ** 2).mean(0)
    total, images, seen = float(variance.sum()), len(values), len(np.unique(classes))
    share = None if images == seen else 0.0
    if total and images > seen:
        # The means of K classes of N images explain (K - 1) / (N - 1) of noise.
        share = max(0.0, 1 - (1 - float(between.sum()) / total) * (images - 1) / (images - seen))
    return Spread(
        tuple(float(value) for value in np.quantile(values, QUANTILES)), float(np.sqrt(variance).mean()), share
    )


def to_json(found: Thresholds) -> dict[str, Any]:
    """Every block's figures as plain values."""
    return {"quantiles": list(QUANTILES), "blocks": [asdict(row) for row in found.blocks]}


def draw(found: Thresholds, class_names: list[str], path: Path, title: str) -> None:
    """Above: each part in every block. Below: its class means in the block where classes matter most."""
    figure = blank_figure(5 * len(found.by_class), 7)
    figure.suptitle(fill(title, 5 * len(found.by_class) - 0.2, 12))
    grid = figure.subplots(2, len(found.by_class), squeeze=False, gridspec_kw={"height_ratios": (1, 1.25)})
    for axes, part, colour in zip(grid[0], found.by_class, COLOURS, strict=False):
        _boxes(tidy(axes), found, part, colour)
    for axes, (part, (block, means)) in zip(grid[1], found.by_class.items(), strict=True):
        telling = np.sort(np.argsort(-np.nanstd(means, axis=0))[:24])
        centred = means[:, telling] - np.nanmean(means[:, telling], axis=0)
        limit = float(np.nanmax(np.abs(centred))) or 1.0
        axes.set_facecolor(NO_IMAGE)
        image = axes.imshow(centred, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        own = next(getattr(row, part) for row in found.blocks if row.block == block)
        told = "" if own.class_share is None else f"; classes explain {100 * own.class_share:.0f} %"
        axes.set_title(fill(f"{part} of {block} by class{told}", 3.2, 9), fontsize=9)
        axes.set_xlabel("the channels that differ most")
        axes.set_xticks([])
        if len(class_names) <= 20:
            axes.set_yticks(range(len(class_names)), map(_brief, class_names), fontsize=8)
        label = "difference from the mean class" + "\n(grey: no image of the class)" * bool(np.isnan(means).any())
        figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    save_figure(figure, path)


def _brief(name: str) -> str:
    return literal(name if len(name) <= 24 else name[:23] + "…")


def _boxes(axes: Any, found: Thresholds, part: str, colour: str) -> None:
    spreads = [(place, getattr(row, part)) for place, row in enumerate(found.blocks, 1) if getattr(row, part)]
    for place, spread in spreads:
        low, left, middle, right, high = spread.quantiles
        axes.plot([place, place], [low, high], color=colour, lw=1.2)
        axes.plot([place, place], [left, right], color=colour, lw=7, solid_capstyle="butt", alpha=0.55)
        axes.plot(place, middle, "o", ms=3.5, color="white", mec=colour)
    axes.axhline(float(part == "gain"), color="black", lw=0.6)
    axes.set(xlabel="convolution block", ylabel=part)
    axes.set_title(f"{part}: 5 to 95 % and quartiles\nover images and channels", fontsize=9)
    axes.set_xlim(0.4, len(found.blocks) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    if part == "alpha":
        right = axes.twinx()
        right.plot(
            [p for p, _ in spreads], [100 * found.blocks[p - 1].flipped for p, _ in spreads], "--", c="#777777", lw=1
        )
        right.set_ylabel("activations turned over by alpha (%)", color="#777777", fontsize=8)
        right.set_ylim(bottom=0)
        right.spines["top"].set_visible(False)
