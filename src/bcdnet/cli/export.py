"""`bcdnet export`: a model becomes one packed file that runs without torch, or an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bcdnet.cli.model import InputSize, ModelOrName, compile_found, find_model, model_files, pack, packed_file
from bcdnet.errors import BcdnetError
from bcdnet.files import refuse_overwriting


def run(
    model: ModelOrName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .bcdn or .onnx.")],
    input_size: InputSize = None,
    file_format: Annotated[
        Literal["bcdn", "onnx"] | None, typer.Option("--format", help="By default what the file's suffix says.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Round real-valued kernels and matrices to float16: a smaller file.")
    ] = False,
) -> None:
    """Pack a model: one-bit weights, fused operations, preprocessing, labels and origin in one file.

    A timm model's name stands for fresh weights: good for timing, not for predictions. `--format onnx`, also from a
    packed file, writes the same network with standard operators, the bits as float32: for other tools, neither small
    nor fast. With `--half` the logits change a little: `bcdnet eval` tells what accuracy the file has.
    """
    suffix = output.suffix.lower().removeprefix(".")
    wanted = file_format or suffix
    if wanted not in ("bcdn", "onnx") or (wanted != suffix and "bcdn" in (wanted, suffix)):
        raise BcdnetError(f"{output}: give a name that ends in .bcdn, or in .onnx")
    refuse_overwriting([output], model_files(model))
    if wanted == "onnx":
        if half:
            raise BcdnetError(f"{output}: --half makes packed files smaller; leave it out for ONNX")
        typer.echo(_export_onnx(model, output, input_size))
        return
    found = find_model(model, input_size)
    path = pack(found, output, half)
    parameters = sum(parameter.numel() for parameter in found.module.parameters())
    size = path.stat().st_size
    shape = "x".join(map(str, found.input_size))
    typer.echo(
        f"{path}: {size / 1e6:.2f} MB for {parameters:,} parameters ({4 * parameters / size:.1f} times smaller than "
        f"float32), input {shape}, {len(found.labels) or 'unnamed'} classes"
    )


def _export_onnx(model: str, output: Path, input_size: tuple[int, int, int] | None) -> str:
    """Write the ONNX model; the line to print."""
    from bcdnet.hub import is_hub_name
    from bcdnet.interop.onnx import OPSET, write_onnx
    from bcdnet.pretrained import is_packed
    from bcdnet.program import read_program

    if input_size is None and (is_packed(model) or is_hub_name(model)):
        with packed_file(model) as packed:
            program = read_program(packed)
    else:
        program = compile_found(find_model(model, input_size))
    write_onnx(program, output)
    shape = "x".join(map(str, program.buffers[program.inputs[0].buffer].shape))
    return f"{output}: {output.stat().st_size / 1e6:.2f} MB, ONNX opset {OPSET}, input Nx{shape}"
