"""Latency on one thread against published ImageNet accuracy, as SVG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from race.entries import ACCURACY, key, ours

INK, MUTED = "#222222", "#8a8a8a"
# Legend's name, engines of which the fastest is drawn, colour, marker, filled.
PEERS = (
    ("OpenVINO int8 (the faster of NNCF, QDQ)", ("OpenVINO int8 (NNCF)", "OpenVINO int8 (QDQ)"), "#2a6fbb", "o", True),
    ("OpenVINO fp32", ("OpenVINO fp32",), "#2a6fbb", "o", False),
    ("ONNX Runtime int8", ("ONNX Runtime int8",), "#4c9a52", "s", True),
    ("ONNX Runtime fp32", ("ONNX Runtime fp32",), "#4c9a52", "s", False),
    ("PyTorch", ("PyTorch, bcdnet.nn",), "#8d5aa5", "^", False),
    ("Larq Compute Engine, indirect BGEMM", ("Larq Compute Engine, indirect BGEMM",), "#a0673a", "v", True),
    ("Larq Compute Engine, default", ("Larq Compute Engine",), "#a0673a", "v", False),
)
OURS = "#d9480f"


def _latency(results: Mapping[str, Any], network: str, engines: tuple[str, ...]) -> float | None:
    found = [results["entries"].get(key(network, engine)) for engine in engines]
    return min((entry["ms"]["median"] for entry in found if entry), default=None)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """One point for each network and engine; ours are diamonds, one for each instruction set measured."""
    series = [(f"bcdnet (ours), {t}", (ours(t),), OURS, "D", i == 0) for i, t in enumerate(results["targets"])]
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bcdnet"})
    figure, axes = plt.subplots(figsize=(9.2, 5.4))
    figure.subplots_adjust(left=0.2, right=0.985, top=0.87, bottom=0.1)
    reach: dict[str, list[float]] = {}
    for label, engines, colour, marker, filled in [*series, *PEERS]:
        points = [(ms, top1, name) for name, top1 in ACCURACY.items() if (ms := _latency(results, name, engines))]
        if not points:
            continue
        for ms, _, name in points:
            reach.setdefault(name, []).append(ms)
        axes.plot(
            [ms for ms, _, _ in points],
            [top1 for _, top1, _ in points],
            linestyle="none",
            marker=marker,
            markersize=9 if colour == OURS else 7,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markeredgewidth=1.4,
            label=label,
            zorder=4 if colour == OURS else 3,
        )
    _name_networks(axes, reach)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([value for value in (2, 5, 10, 20, 50, 100, 200, 500) if _inside(value, reach)])
    axes.set_xlabel("latency (ms, logarithmic)", color=INK)
    axes.set_yticks([])
    axes.set_ylim(min(ACCURACY.values()) - 0.35, max(ACCURACY.values()) + 0.35)
    figure.text(0.015, 0.95, "Latency of one 224 px image on one thread, against accuracy", fontsize=12.5, color=INK)
    where = f"{results['machine']['processor']}, {results['date']}"
    figure.text(0.015, 0.905, f"by network and its published ImageNet top-1 (%); {where}", fontsize=9, color=MUTED)
    axes.grid(axis="x", alpha=0.2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="upper right", bbox_to_anchor=(1, 0.935))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _inside(value: float, reach: Mapping[str, list[float]]) -> bool:
    every = [ms for row in reach.values() for ms in row]
    return bool(every) and min(every) / 1.5 < value < max(every) * 1.5


def _name_networks(axes: Any, reach: Mapping[str, list[float]]) -> None:
    """A thin line through each network's points, and its name at the left, moved apart where two names would touch."""
    height, lowest = 0.24, float("-inf")
    for name in sorted(reach, key=lambda name: ACCURACY[name]):
        top1 = ACCURACY[name]
        lowest = max(top1, lowest + height)
        axes.axhline(top1, color=MUTED, linewidth=0.7, alpha=0.45, zorder=1)
        binary = name.startswith(("BCDNet", "ReActNet"))
        axes.annotate(
            f"{name}  {top1:.1f}",
            (0, top1),
            xycoords=("axes fraction", "data"),
            xytext=(-0.015, lowest),
            ha="right",
            va="center",
            fontsize=9.5,
            color=OURS if binary else INK,
            fontweight="bold" if binary else "normal",
        )
