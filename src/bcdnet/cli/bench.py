"""`bcdnet bench`: how fast a packed file runs here, against what the machine could do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bcdnet.cli.model import Model, model_files, packed_file
from bcdnet.cli.table import print_table
from bcdnet.files import refuse_overwriting, whole_file
from bcdnet.machine import available_threads, processor

if TYPE_CHECKING:
    from bcdnet.runtime import InferenceSession, OpProfile

WARMUP_SECONDS = 0.3
PROFILED = 15  # runs, of whose times by operation the medians are shown


def run(
    model: Model,
    threads: Annotated[
        list[int] | None, typer.Option(help="Of a run; may be given several times. By default 1 and all CPUs.")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=4096, help="Images of a run; may be given several times. By default 1."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to spend on each measurement.")] = 2.0,
    target: Annotated[str | None, typer.Option(help="Instruction set; by default the best.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="A table by operation, of the first of --threads and --batch.")
    ] = False,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace (chrome://tracing, Perfetto).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Latency (median and 95th percentile), multiply-accumulates per second and share of the machine's measured roof.

    The roof is the time that the network's work would take at the rates of loops measured here on one thread: byte
    look-ups, look-ups for two pixels at once, population counts (the best of these for one-bit work) and float32
    multiply-adds.
    """
    from bcdnet.runtime import InferenceSession

    if trace is not None:
        refuse_overwriting([trace], model_files(model))
    counts = threads or sorted({1, available_threads()})
    with packed_file(model) as path:
        sessions = [InferenceSession(path, threads=count, target=target) for count in counts]
        file_bytes = path.stat().st_size
    roof = _roof(sessions[0].target)
    results = [_measure(session, size, seconds, roof) for session in sessions for size in batch or [1]]
    first = (batch or [1])[0]
    rows = _profile(sessions[0], first) if profile or trace else []
    if as_json:
        document = {
            "file": model,
            "bytes": file_bytes,
            "machine": processor(),
            "target": sessions[0].target,
            "roof": asdict(roof),
            "results": [asdict(result) for result in results],
            "profiled": {"threads": sessions[0].threads, "batch": first} if profile else None,
            "profile": [asdict(row) for row in rows] if profile else None,
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(f"{model}, {file_bytes / 1e6:.2f} MB", sessions[0], results)
        if profile:
            _print_profile(rows, roof, sessions[0].threads, first)
    if trace is not None:  # last: where it cannot be written the figures are there
        with whole_file(trace) as beside:
            beside.write_text(json.dumps(_chrome_trace(rows)))


@dataclass(frozen=True)
class Roof:
    """Multiply-accumulates per second of one thread in loops bound by one thing."""

    shuffle: float
    pairs: float
    popcount: float
    fp32: float

    def seconds(self, binary_macs: int, float_macs: int, threads: int) -> float:
        """Least time for so much work."""
        return (binary_macs / max(self.shuffle, self.pairs, self.popcount) + float_macs / self.fp32) / threads


@dataclass(frozen=True)
class Result:
    """One measurement; times in milliseconds for the whole batch, rates of one-bit and float32 work together.

    `roof_share` is None where the run was faster than the measured roof, which then is none.
    """

    threads: int
    batch: int
    median_ms: float
    p95_ms: float
    images_per_second: float
    gmacs_per_second: float
    roof_share: float | None
    runs: int


def _roof(target: str) -> Roof:
    from bcdnet.runtime.native import core

    kinds = ("shuffle", "pairs", "popcount", "fp32")
    # The best of several: another process can only make a loop slower.
    return Roof(*(max(core().peak(kind, target) for _ in range(5)) for kind in kinds))


def _share(ideal: float, actual: float) -> float | None:
    """Part of the roof that was reached; None if more than all of it, when the roof was measured too low."""
    return ideal / actual if ideal <= actual else None


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f} %"


def _feed(session: InferenceSession, batch: int) -> dict[str, Any]:
    port = session.get_inputs()[0]
    shape = (batch, *(int(size) for size in port.shape[1:]))
    return {port.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def _measure(session: InferenceSession, batch: int, seconds: float, roof: Roof) -> Result:
    feed = _feed(session, batch)
    begin = perf_counter()
    while perf_counter() - begin < WARMUP_SECONDS:
        session.run(None, feed)
    times: list[float] = []
    begin = perf_counter()
    while perf_counter() - begin < seconds or len(times) < 5:
        start = perf_counter()
        session.run(None, feed)
        times.append(perf_counter() - start)
    median = float(np.median(times))
    binary = sum(price.binary_macs for price in session.costs) * batch
    floats = sum(price.float_macs for price in session.costs) * batch
    return Result(
        threads=session.threads,
        batch=batch,
        median_ms=1e3 * median,
        p95_ms=1e3 * float(np.percentile(times, 95)),
        images_per_second=batch / median,
        gmacs_per_second=(binary + floats) / median / 1e9,
        roof_share=_share(roof.seconds(binary, floats, session.threads), median),
        runs=len(times),
    )


def _profile(session: InferenceSession, batch: int) -> list[OpProfile]:
    """The median of each op's time over `PROFILED` runs."""
    feed = _feed(session, batch)
    runs = [session.profile(feed) for _ in range(PROFILED)]
    medians = np.median([[row.seconds for row in rows] for rows in runs], axis=0)
    return [replace(row, seconds=float(median)) for row, median in zip(runs[0], medians, strict=True)]


def _chrome_trace(rows: list[OpProfile]) -> dict[str, Any]:
    events, start = [], 0.0
    for row in rows:
        duration = 1e6 * row.seconds
        event = {"name": row.name, "cat": row.type, "ph": "X", "pid": 0, "tid": 0, "ts": start, "dur": duration}
        events.append(event | {"args": asdict(row.cost)})
        start += duration
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _print(title: str, session: InferenceSession, results: list[Result]) -> None:
    from rich.table import Table

    shape = "x".join(str(size) for size in session.get_inputs()[0].shape[1:])
    table = Table()
    for column in ("threads", "batch", "median", "p95", "images/s", "GMAC/s", "of roof"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results:
        table.add_row(
            str(row.threads), str(row.batch), f"{row.median_ms:.2f} ms", f"{row.p95_ms:.2f} ms",
            f"{row.images_per_second:,.0f}", f"{row.gmacs_per_second:.0f}", _percent(row.roof_share),
        )  # fmt: skip
    print_table(table, f"{title}, input {shape}, {session.target}")
    if any(row.roof_share is None for row in results):
        typer.echo("? faster than the roof that was measured, so that the share of it says nothing")


def _print_profile(rows: list[OpProfile], roof: Roof, threads: int, batch: int) -> None:
    from rich.table import Table
    from rich.text import Text

    total = sum(row.seconds for row in rows)
    table = Table()
    for column in ("operation", "type", "time", "share", "MMAC", "kB", "GMAC/s", "of roof"):
        table.add_column(column, justify="left" if column in ("operation", "type") else "right", no_wrap=True)
    for row in rows:
        binary, floats = row.cost.binary_macs * batch, row.cost.float_macs * batch
        macs = binary + floats
        ideal = roof.seconds(binary, floats, threads)
        busy = row.seconds > 0 and macs > 0
        table.add_row(
            Text(row.name), row.type, f"{1e6 * row.seconds:.0f} us", f"{100 * row.seconds / total:.1f} %",
            f"{macs / 1e6:.1f}", f"{row.cost.bytes / 1e3:.0f}", f"{macs / row.seconds / 1e9:.0f}" if busy else "",
            _percent(_share(ideal, row.seconds)) if busy else "",
        )  # fmt: skip
    print_table(table, f"{1e3 * total:.2f} ms by operation, {threads} threads, batch {batch}")
