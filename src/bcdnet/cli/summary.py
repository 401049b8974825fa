"""`bcdnet summary`: what a network costs, per stage and in total."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcdnet.cli.model import InputSize, ModelOrName, find_model
from bcdnet.cli.table import print_table
from bcdnet.errors import BcdnetError

if TYPE_CHECKING:
    from rich.table import Table

    from bcdnet.analysis import Counts


def run(
    model: ModelOrName,
    input_size: InputSize = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of a named model.")] = None,
    width: Annotated[float | None, typer.Option(help="Width multiplier of a named model.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One row for each layer, not for each stage.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, operations and packed size of a network on one image.

    BOPs are multiply-accumulates of one-bit weights and activations, FLOPs those of all other convolutions and linear
    layers, OPs = FLOPs + BOPs / 64. The conventions stand in docs/counting.md.
    """
    from bcdnet.analysis import count

    found = find_model(model, input_size, num_classes=num_classes, width=width)
    size = found.input_size
    try:
        counts = count(found.module, size)
    except BcdnetError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise BcdnetError(f"{model} does not run on an input of {'x'.join(map(str, size))}: {reason}") from error
    if as_json:
        typer.echo(json.dumps(_document(model, counts, layers), indent=2))
    else:
        print_table(_table(counts, layers), f"{model} on {'x'.join(map(str, counts.input_size))}")
        print_table(_notes(counts))


def _document(name: str, counts: Counts, layers: bool) -> dict[str, Any]:
    stages = [{"stage": stage, **part.totals()} for stage, part in counts.by_stage().items()]
    rows = {"layers": [asdict(layer) for layer in counts.layers]} if layers else {}
    return {"model": name, "input_size": list(counts.input_size), **counts.totals(), "stages": stages, **rows}


def _table(counts: Counts, layers: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=True)
    parts = list(counts.by_stage().items())
    if layers:
        parts = [(row.name or row.stage, replace(counts, layers=(row,))) for row in counts.layers]
    table.add_column("layer" if layers else "stage", footer="total", no_wrap=True)
    table.add_column("output", no_wrap=True)
    columns: dict[str, Callable[[Counts], str]] = {
        "params": lambda part: short(part.params),
        "1-bit": lambda part: f"{100 * part.binary_params / part.params:.0f} %" if part.params else "",
        "BOPs": lambda part: short(part.bops),
        "FLOPs": lambda part: short(part.flops),
        "elem.": lambda part: short(part.flops_elementwise),
        "OPs": lambda part: short(part.ops),
        "packed": lambda part: short(part.packed_bytes, "B"),
    }
    for title, cell in columns.items():
        table.add_column(title, footer=cell(counts), justify="right", no_wrap=True)
    for title, part in parts:
        output = "x".join(map(str, part.layers[-1].output))
        table.add_row(title, output, *(cell(part) for cell in columns.values()))
    return table


def _notes(counts: Counts) -> Table:
    from rich.table import Table

    macs = {kind: number for kind, number in counts.macs_by_precision.items() if number}
    unpacked = 4 * counts.params
    ratio = unpacked / max(1, counts.packed_bytes)
    notes = Table.grid(padding=(0, 2, 0, 0))
    notes.add_column(no_wrap=True)
    notes.add_column()
    notes.add_row("OPs", f"{short(counts.ops)}, with elementwise work {short(counts.ops_with_elementwise)}")
    notes.add_row("elementwise (elem.)", _listing(counts.elementwise))
    notes.add_row("MACs, weight x activation bits", _listing(macs))
    notes.add_row("arithmetic effort (ACE)", short(counts.ace))
    notes.add_row("packed, in float32", f"{short(counts.packed_bytes, 'B')}, {short(unpacked, 'B')} ({ratio:.1f}x)")
    return notes


def _listing(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {short(number)}" for name, number in numbers.items()) or "none"


def short(number: float, unit: str = "") -> str:
    """Three or so significant digits and a decimal prefix: 4816896000 -> "4.82 G"; an empty text for zero."""
    if not number:
        return ""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # From 999.5 on, three digits would round up to the next prefix.
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {prefix}{unit}"
    return f"{number:.0f} {unit}".strip()
