"""Weight flips: how many binary weights change their sign while a network trains, and in which layers."""

from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import MaxNLocator
from torch import nn

from bcdnet.analysis.titles import fill
from bcdnet.figures import COLOURS, blank_figure, literal, save_figure, tidy
from bcdnet.nn import BinaryLayer, sign


@dataclass(frozen=True)
class EpochFlips:
    """Share of all binary weights that one epoch turned over; `epoch` counts from the step's beginning."""

    step: str
    epoch: float
    rate: float


@dataclass(frozen=True)
class LayerFlips:
    """Share of a layer's weights whose sign differs between two models of a run."""

    layer: str
    weights: int
    rate: float


@dataclass(frozen=True)
class Flips:
    """`before`, `after`: the two models that `layers` compares, empty where a run has one step only."""

    epochs: list[EpochFlips]
    layers: list[LayerFlips]
    before: str
    after: str


@torch.no_grad()
def flips_between(before: nn.Module, after: nn.Module) -> list[LayerFlips]:
    """Compare the signs of two models of one network, layer by layer."""
    others = {path: module for path, module in before.named_modules() if isinstance(module, BinaryLayer)}
    rows = []
    for path, module in after.named_modules():
        if isinstance(module, BinaryLayer):
            differing = sign(module.latent_weight) != sign(others[path].latent_weight)
            rows.append(LayerFlips(path, differing.numel(), float(differing.double().mean())))
    return rows


def epochs_of(rows: list[dict[str, str]]) -> list[EpochFlips]:
    """The flip rates in the rows of a run's metrics.csv; none from runs of versions that did not log them."""
    return [
        EpochFlips(row["step"], float(row["epoch"]), float(row["flip_rate"]))
        for row in rows
        if row["event"] == "epoch" and row["step"] != "teacher" and row.get("flip_rate")
    ]


def to_json(flips: Flips) -> dict[str, Any]:
    """Everything as plain values, with the rate of all layers together."""
    weights = sum(row.weights for row in flips.layers)
    total = sum(row.rate * row.weights for row in flips.layers) / weights if weights else None
    return {**asdict(flips), "rate_between": total}


def draw(flips: Flips, path: Path, title: str) -> None:
    """The rate by epoch, the steps side by side, and the layers' share between the two models."""
    parts = [part for part in (flips.epochs, flips.layers) if part]
    figure = blank_figure(8, 3.2 * max(1, len(parts)))
    figure.suptitle(fill(title, 7.8, 12))
    panels = list(figure.subplots(len(parts), 1, squeeze=False)[:, 0])
    if flips.epochs:
        axes = tidy(panels.pop(0))
        begin = 0.0
        for step, colour in zip(dict.fromkeys(row.step for row in flips.epochs), cycle(COLOURS), strict=False):
            own = [row for row in flips.epochs if row.step == step]
            epochs, rates = [begin + row.epoch for row in own], [100 * row.rate for row in own]
            axes.plot(epochs, rates, "o-", ms=3, c=colour, label=literal(step))
            begin += own[-1].epoch
        positive = all(row.rate > 0 for row in flips.epochs)
        axes.set(xlabel="epochs", ylabel="weights flipped in an epoch (%)", yscale="log" if positive else "linear")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    if flips.layers:
        axes = tidy(panels.pop(0))
        colours = [COLOURS[1] if ".convs." in row.layer else COLOURS[0] for row in flips.layers]
        axes.bar(range(1, len(flips.layers) + 1), [100 * row.rate for row in flips.layers], color=colours)
        total = to_json(flips)["rate_between"]
        axes.axhline(100 * total, color="black", lw=0.8, ls=":")
        axes.set(
            xlabel="binary layer, in the network's order (orange: branches of MLP blocks)",
            ylabel=literal(f"flipped from {flips.before} to {flips.after} (%)"),
        )
        axes.set_title(f"{100 * total:.1f} % of all weights", fontsize=9, loc="right")
    save_figure(figure, path)
