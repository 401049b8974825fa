"""The door from the torch world to the packed file."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bcdnet.compiler.fuse import merge_twins
from bcdnet.compiler.half import round_to_half
from bcdnet.compiler.lower import lower
from bcdnet.compiler.plan import plan
from bcdnet.compiler.trace import check_trace, trace
from bcdnet.errors import CompileError, ProgramError
from bcdnet.models import Network, describe, unwrapped
from bcdnet.program.decode import from_json, to_json
from bcdnet.program.file import write_program
from bcdnet.program.schema import Preprocess, Program
from bcdnet.program.validate import validate

NETWORK = "network"  # key of a program's provenance: what `models.describe` says of the network


def compile_module(
    module: nn.Module,
    *,
    input_size: Sequence[int] = (3, 224, 224),
    labels: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Program:
    """The packed program of an eval-mode module, valid, in memory; arguments and errors as `export`."""
    channels, height, width = _size(input_size)
    for name, value, kind in (("module", module, nn.Module), ("provenance", provenance or {}, Mapping)):
        if not isinstance(value, kind):
            raise CompileError(f"{name}: expected a {kind.__name__}, got {value!r}")
    if isinstance(labels, str):  # a sequence of names, of a letter each
        raise CompileError(f"labels: expected a list of names, got {labels!r}")
    module = unwrapped(module)
    traced = trace(module)
    graph = lower(traced, (channels, height, width))
    check_trace(module, traced, (channels, height, width))
    merge_twins(graph)
    if half:
        round_to_half(graph)
    program = replace(
        plan(graph),
        labels=() if labels is None else tuple(str(name) if isinstance(name, str) else name for name in labels),
        preprocess=None if preprocess is None else _preprocess(preprocess, (channels, height, width)),
        provenance={**(provenance or {}), **({NETWORK: describe(module)} if isinstance(module, Network) else {})},
    )
    try:
        # Through JSON: what no reader of the file would take is refused here.
        return validate(from_json(to_json(program), program.tensors))
    except ProgramError as error:
        raise CompileError(f"cannot be packed: {error}") from error


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_size: Sequence[int] = (3, 224, 224),
    labels: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Pack an eval-mode module made of `bcdnet.nn` and ordinary layers into one `.bcdn` file; its path.

    What torch.compile, DataParallel or an average of weights (torch.optim.swa_utils) has around it is left out.
    `input_size`: (C, H, W) of the image; the batch size stays free. `labels`: one name per class. `preprocess`: timm's
    mean, std, interpolation, crop_pct (its input_size becomes `input_size`; the side before the crop, size / crop_pct,
    is rounded to the nearest where timm rounds it down). `provenance`: free JSON. `half`: round the
    real-valued kernels and matrices to float16, which takes half of their bytes and changes the logits a little.
    Raises CompileError naming the module path and the reason; also where tracing, tried with one random image, found
    something else than PyTorch computes.
    """
    program = compile_module(
        module, input_size=input_size, labels=labels, preprocess=preprocess, provenance=provenance, half=half
    )
    return write_program(program, path)


def _size(input_size: Sequence[int]) -> tuple[int, int, int]:
    try:
        channels, height, width = map(operator.index, input_size)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise CompileError(f"input_size: expected (channels, height, width), each at least 1, got {input_size!r}")
    return channels, height, width


def _preprocess(values: Mapping[str, Any], input_size: tuple[int, int, int]) -> Preprocess:
    keys = ("mean", "std", "interpolation", "crop_pct")
    if missing := [key for key in keys if key not in values]:
        raise CompileError(f"preprocess: lacks {', '.join(missing)}")
    if (mode := values.get("crop_mode", "center")) != "center":
        raise CompileError(f"preprocess: crop_mode {mode!r}, but what runs a packed file crops the centre")
    try:
        return Preprocess(
            input_size=input_size,
            mean=tuple(float(value) for value in values["mean"]),
            std=tuple(float(value) for value in values["std"]),
            interpolation=values["interpolation"],
            crop_pct=float(values["crop_pct"]),
        )
    except (TypeError, ValueError) as error:
        raise CompileError(f"preprocess: mean and std are lists of numbers, crop_pct a number ({error})") from None
