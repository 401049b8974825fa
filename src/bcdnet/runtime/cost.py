"""What each op of a program costs for one image: multiply-accumulates and bytes moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bcdnet.program.schema import (
    BinaryConv2d,
    Concat,
    Conv2d,
    Elementwise,
    Epilogue,
    Linear,
    Op,
    Program,
    buffer_bytes,
)


@dataclass(frozen=True)
class Cost:
    """Per image: one-bit and float32 multiply-accumulates, and bytes of weights, inputs and outputs touched once."""

    binary_macs: int
    float_macs: int
    bytes: int


def cost(program: Program, op: Op) -> Cost:
    """The cost of one op of a program whose tensors are at hand."""
    macs = _macs(op, program)
    binary = isinstance(op, BinaryConv2d)
    touched = {*_reads(op), *writes(op)}
    moved = sum(buffer_bytes(program.buffers[buffer]) for buffer in touched)
    moved += sum(program.tensors[name].nbytes for name in _weights(op))
    return Cost(binary_macs=macs if binary else 0, float_macs=0 if binary else macs, bytes=moved)


def _macs(op: Op, program: Program) -> int:
    if isinstance(op, BinaryConv2d):
        outputs, rows, columns, _ = program.tensors[op.branches[0].weight].shape
        channels = program.buffers[op.input].shape[2]
        return _pixels(op.epilogue, program) * int(outputs * rows * columns) * channels * len(op.branches)
    if isinstance(op, Conv2d):
        return _pixels(op.epilogue, program) * int(program.tensors[op.weight].size)
    return int(program.tensors[op.weight].size) if isinstance(op, Linear) else 0


def _pixels(epilogue: Epilogue, program: Program) -> int:
    result = epilogue.bits[0].buffer if epilogue.map is None else epilogue.map
    return math.prod(program.buffers[result].shape[:2])


def _reads(op: Op) -> list[int]:
    reads: list[int | None] = list(op.inputs) if isinstance(op, Concat) else [op.input]
    if isinstance(op, (Conv2d, BinaryConv2d, Elementwise)):
        reads += [op.epilogue.gain, op.epilogue.beta]
        reads += [bits.alpha for bits in op.epilogue.bits]
        if op.epilogue.shortcut is not None:
            reads.append(op.epilogue.shortcut.buffer)
    return [buffer for buffer in reads if buffer is not None]


def writes(op: Op) -> list[int]:
    """The buffers that an op writes."""
    if not isinstance(op, (Conv2d, BinaryConv2d, Elementwise)):
        return [op.output]
    results: list[int] = [bits.buffer for bits in op.epilogue.bits]
    return results if op.epilogue.map is None else [op.epilogue.map, *results]


def _weights(op: Op) -> list[str]:
    if isinstance(op, BinaryConv2d):
        return [branch.weight for branch in op.branches]
    return [op.weight] if isinstance(op, (Conv2d, Linear)) else []
