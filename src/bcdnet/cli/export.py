"""`bcdnet export`: a model becomes one packed file that runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bcdnet.cli.model import find_model, pack


def run(
    model: Annotated[str, typer.Argument(help="A model file, a run folder, or the name of a timm model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Packed file to write, .bcdn.")],
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Channels, height and width; the model's own where left out.", show_default=False),
    ] = None,
) -> None:
    """Pack a model: one-bit weights, fused operations, preprocessing, labels and origin in one file.

    A named model has fresh weights: good for timing, not for predictions.
    """
    found = find_model(model, input_size)
    path = pack(found, output)
    parameters = sum(parameter.numel() for parameter in found.module.parameters())
    size = path.stat().st_size
    shape = "x".join(map(str, found.input_size))
    typer.echo(
        f"{path}: {size / 1e6:.2f} MB for {parameters:,} parameters ({4 * parameters / size:.1f} times smaller than "
        f"float32), input {shape}, {len(found.labels) or 'unnamed'} classes"
    )
