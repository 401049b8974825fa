"""Figures from bursts: medians and quartiles, ratios within a round, and what is required of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from race.entries import ARITHMETICS, CAPPED, LAYERS, key, ours

Bursts = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    q1: float
    q3: float


def spread(values: Iterable[float]) -> Spread:
    """Of one value or more."""
    values = list(values)
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    first, middle, third = quantiles(values, n=4, method="inclusive")
    return Spread(middle, first, third)


def ratio(bursts: Bursts, peer: str, our: str, field: str = "median") -> Spread | None:
    """How many times the time of `our` entry `peer` takes, divided round by round; None where either did not run."""
    if peer not in bursts or our not in bursts:
        return None
    pairs = zip(bursts[peer], bursts[our], strict=True)
    return spread(theirs[field] / ours[field] for theirs, ours in pairs)


def _least(bursts: Bursts, name: str) -> float:
    return min(row["least"] for row in bursts[name])


def figures(bursts: Bursts) -> dict[str, dict[str, Any]]:
    """For each entry the times of a run in milliseconds; `kernel_ms` is the time inside a layer's kernel."""
    found: dict[str, dict[str, Any]] = {}
    for name, rows in bursts.items():
        inside = [1e3 * row["inside"] for row in rows if row["inside"] is not None]
        found[name] = {
            "ms": asdict(spread(1e3 * row["median"] for row in rows)),
            "least_ms": 1e3 * _least(bursts, name),
            "kernel_ms": asdict(spread(inside)) if inside else None,
            "runs": sum(row["runs"] for row in rows),
            "cores_busy": median(row["cores"] for row in rows),
            "rounds_ms": [round(1e3 * row["median"], 4) for row in rows],
        }
    return found


# How many times as fast as a peer's network BCDNet-A has to be, both on one thread; every measured form of the peer.
REQUIRED = (
    (3.5, "ResNet-18", ("ONNX Runtime fp32",)),
    (40.0, "BCDNet-A", tuple(name + cap for name in list(ARITHMETICS)[1:] for cap in (CAPPED, ""))),
    (30.0, "ReActNet-A", ("Larq Compute Engine", "Larq Compute Engine, indirect BGEMM")),
    (1.0, "MobileNet-V2", tuple(f"OpenVINO int8 ({form}){cap}" for form in ("NNCF", "QDQ") for cap in (CAPPED, ""))),
)
REQUIRED_OF_LAYERS = 2.0
REQUIRED_OF_TWO_THREADS = 1.7


def requirements(bursts: Bursts, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Each requirement on whole networks, with the ratio that each of our instruction sets reached."""

    def row(wanted: float, title: str, peers: Mapping[str, str], threads: int = 1) -> dict[str, Any]:
        ratios = {}
        for target in targets:
            our = key("BCDNet-A", ours(target), threads)
            if value := ratio(bursts, peers[target], our):
                ratios[target] = asdict(value) | {
                    "of_fastest_runs": _least(bursts, peers[target]) / _least(bursts, our)
                }
        return {"against": title, "wanted": wanted, "ratios": ratios}

    rows = [
        row(wanted, f"{network}, {form}", dict.fromkeys(targets, key(network, form)))
        for wanted, network, forms in REQUIRED
        for form in forms
    ]
    one_thread = {target: key("BCDNet-A", ours(target), 1) for target in targets}
    return [*rows, row(REQUIRED_OF_TWO_THREADS, "BCDNet-A itself on one thread, by two threads", one_thread, 2)]


def layers(bursts: Bursts, targets: Sequence[str]) -> list[dict[str, Any]]:
    """For each binary layer and each of our instruction sets the ratios to OpenVINO's BinaryConvolution.

    `kernel`: the time inside the kernels; `network`: that of whole networks of one layer, binarisation included.
    """
    rows = []
    for name in LAYERS:
        for target in targets:
            ratios = {}
            for peer in ("OpenVINO" + CAPPED, "OpenVINO"):
                names = (key(name, peer), key(name, ours(target)))
                for title, field in (("kernel", "inside"), ("network", "median")):
                    if value := ratio(bursts, *names, field):
                        ratios[f"{title} {peer}"] = asdict(value)
            rows.append({"layer": name, "target": target, "wanted": REQUIRED_OF_LAYERS, "ratios": ratios})
    return rows
