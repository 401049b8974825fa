"""Checks a program against every rule of docs/format.md before anything is allocated for it or run.

Reads top to bottom as the specification does: limits, ports, text, then the ops in execution order, then the tensors.
"""

from __future__ import annotations

import math
import sys
import unicodedata
from typing import Any

import numpy as np

from bcdnet.errors import ProgramError
from bcdnet.program.check_ops import check_op
from bcdnet.program.context import Context
from bcdnet.program.schema import Buffer, Preprocess, Program, buffer_bytes, words

MAX_BUFFERS = 16384
MAX_OPS = 4096
MAX_DIM = 65536
MAX_BUFFER_BYTES = 2**31
MAX_PADDED_BYTES = 2**32
MAX_OUTPUTS = 16
MAX_NAME = 256
MAX_LABEL = 1024
MAX_PROVENANCE_DEPTH = 8
MIN_CROP = 0.1
RANK = {"image": 3, "map": 3, "vector": 1, "bits": 3}


def validate(program: Program) -> Program:
    """The program itself when it keeps every rule; otherwise a ProgramError that names the offending op or part."""
    _buffers(program.buffers)
    if len(program.ops) > MAX_OPS:
        raise ProgramError(f"ops: {len(program.ops)} of them; at most {MAX_OPS}")
    context = Context(program)
    _inputs(program, context)
    names: set[str] = set()
    for index, op in enumerate(program.ops):
        _name(op.name, f"op {index}: name")
        context.where = f"op {index} {op.name!r}"
        if op.name in names:
            raise context.error("another op has this name")
        names.add(op.name)
        check_op(op, context)
    _every_buffer_written(program, context)
    _outputs(program)
    _labels(program)
    if program.preprocess is not None:
        _preprocess(program.preprocess, program.buffers[program.inputs[0].buffer].shape)
    _free_json(program.provenance, MAX_PROVENANCE_DEPTH)
    _tensors(program, context)
    _memory(program.buffers)
    return program


def _buffers(buffers: tuple[Buffer, ...]) -> None:
    if len(buffers) > MAX_BUFFERS:
        raise ProgramError(f"buffers: {len(buffers)} of them; at most {MAX_BUFFERS}")
    total = 0
    for index, buffer in enumerate(buffers):
        if len(buffer.shape) != RANK[buffer.kind]:
            raise ProgramError(f"buffer {index}: a {buffer.kind} has {RANK[buffer.kind]} dimensions")
        if not all(1 <= size <= MAX_DIM for size in buffer.shape):
            raise ProgramError(f"buffer {index}: every dimension must be 1 to {MAX_DIM}")
        total += buffer_bytes(buffer)
    if total > MAX_BUFFER_BYTES:
        raise ProgramError(f"buffers: {total} bytes per image; at most {MAX_BUFFER_BYTES}")


def _memory(buffers: tuple[Buffer, ...]) -> None:
    """What the rules so far allow can still be more than kernels hold."""
    padded = sum(map(_padded_bytes, buffers))
    if padded > MAX_PADDED_BYTES:
        raise ProgramError(
            f"buffers: {padded} bytes per image with channels in steps of 32; at most {MAX_PADDED_BYTES}"
        )


def _padded_bytes(buffer: Buffer) -> int:
    """Of one image's buffer where channels come in steps of 32, as kernels want them; bits always do."""
    if buffer.kind == "bits":
        return buffer_bytes(buffer)
    channels = buffer.shape[0 if buffer.kind == "image" else -1]
    return buffer_bytes(buffer) // channels * 32 * words(channels)


def _inputs(program: Program, context: Context) -> None:
    images = [index for index, buffer in enumerate(program.buffers) if buffer.kind == "image"]
    if len(program.inputs) != 1:
        raise ProgramError(f"inputs: expected exactly one, got {len(program.inputs)}")
    port = program.inputs[0]
    _name(port.name, "inputs[0].name")
    if images != [port.buffer]:
        raise ProgramError("inputs[0].buffer: must be the only buffer of kind image")
    context.written.add(port.buffer)


def _outputs(program: Program) -> None:
    if not 1 <= len(program.outputs) <= MAX_OUTPUTS:
        raise ProgramError(f"outputs: expected 1 to {MAX_OUTPUTS}, got {len(program.outputs)}")
    for index, port in enumerate(program.outputs):
        _name(port.name, f"outputs[{index}].name")
        if not 0 <= port.buffer < len(program.buffers) or program.buffers[port.buffer].kind != "vector":
            raise ProgramError(f"outputs[{index}].buffer: {port.buffer} is not a buffer of kind vector")
    for field in ("name", "buffer"):
        if len({getattr(port, field) for port in program.outputs}) != len(program.outputs):
            raise ProgramError(f"outputs: two have the same {field}")


def _every_buffer_written(program: Program, context: Context) -> None:
    if missing := set(range(len(program.buffers))) - context.written:
        raise ProgramError(f"buffer {min(missing)}: no op writes it")


def _name(name: str, where: str) -> None:
    if not 1 <= len(name) <= MAX_NAME or not _clean(name):
        raise ProgramError(f"{where}: must have 1 to {MAX_NAME} characters, none of them a control character")


def _clean(text: str) -> bool:
    # Cs, a lone surrogate, cannot be encoded: it would raise wherever the text is printed or written.
    return (text.isascii() and text.isprintable()) or not {"Cc", "Cs"} & {unicodedata.category(c) for c in text}


def _labels(program: Program) -> None:
    labels = program.labels
    classes = program.buffers[program.outputs[0].buffer].shape[0]
    if labels and len(labels) != classes:
        raise ProgramError(f"labels: {len(labels)} of them for an output of {classes}")
    for index, label in enumerate(labels):
        if len(label) > MAX_LABEL or not _clean(label):
            raise ProgramError(f"labels[{index}]: more than {MAX_LABEL} characters or a control character in it")


def _preprocess(preprocess: Preprocess, shape: tuple[int, ...]) -> None:
    if preprocess.input_size != shape:
        raise ProgramError(f"preprocess.input_size: {preprocess.input_size} is not the input's shape {shape}")
    for field in ("mean", "std"):
        if len(getattr(preprocess, field)) != shape[0]:
            raise ProgramError(f"preprocess.{field}: expected {shape[0]} values")
        if not all(math.isfinite(value) for value in getattr(preprocess, field)):
            raise ProgramError(f"preprocess.{field}: every value must be finite")
    # float32 is what the runtime computes in: a std that rounds to 0 there would divide by zero.
    if not all(float(np.float32(min(value, 1e30))) > 0 for value in preprocess.std):
        raise ProgramError("preprocess.std: every value must be positive")
    computed = [x for m, s in zip(preprocess.mean, preprocess.std, strict=True) for x in (1 / (255 * s), -m / s)]
    if max(map(abs, computed)) > float(np.finfo(np.float32).max):
        raise ProgramError("preprocess: mean and std are beyond the range of float32")
    if not MIN_CROP <= preprocess.crop_pct <= 1:
        raise ProgramError(f"preprocess.crop_pct: must be in [{MIN_CROP}, 1]")


def _free_json(value: Any, depth: int) -> None:
    if depth < 0:
        raise ProgramError(f"provenance: deeper than {MAX_PROVENANCE_DEPTH} levels")
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        raise ProgramError("provenance: numbers must be finite, in float64 too")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ProgramError("provenance: holds half of a surrogate pair, which no text can")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ProgramError("provenance: keys must be strings")
        for part in (*value, *value.values()):
            _free_json(part, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _free_json(item, depth - 1)
    elif not (value is None or isinstance(value, (str, int, float))):
        raise ProgramError(f"provenance: {type(value).__name__} is not JSON")


def _tensors(program: Program, context: Context) -> None:
    """Every tensor is used; float32 ones are finite; the padding bits of packed ones are zero (a shape rule of ops)."""
    if unused := program.tensors.keys() - context.tensors:
        raise ProgramError(f"tensor {min(unused)!r}: no op uses it")
    for name, array in program.tensors.items():
        _name(name, f"tensor {name!r}")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise ProgramError(f"tensor {name!r}: holds a NaN or an infinity")
