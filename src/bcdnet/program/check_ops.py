"""The rules of each op: what it reads and writes, in which shapes. Shape legend as in `schema`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bcdnet.program.context import CONSTANTS, Context
from bcdnet.program.schema import (
    AvgPool,
    BinaryConv2d,
    Bits,
    Concat,
    Conv2d,
    Elementwise,
    Epilogue,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Op,
    Pair,
    Reshape,
    Shortcut,
    Transpose,
    Unpack,
    conv_size,
    pool_size,
    words,
)

MAX_KERNEL = 255
MAX_CONCAT = 64
MAX_BITS = 16
# An int32 sum of so many ±1 is exact as a float32 too.
MAX_REDUCTION = 2**24
# A small map of bits must not grow without bound by its padding.
MAX_PADDED_WORDS = 2**27


def check_op(op: Op, context: Context) -> None:
    """Raise the ProgramError of the first rule that the op breaks; note its writes, tensors and work in the context."""
    match op:
        case Conv2d():
            _conv2d(op, context)
        case BinaryConv2d():
            _binary_conv2d(op, context)
        case Elementwise():
            shape = context.read(op.input, "map")
            _epilogue(op.epilogue, shape, context, dynamic=True)
        case Unpack():
            context.write(op.output, "map", context.read(op.input, "bits"))
        case AvgPool() | MaxPool():
            _pool(op, context)
        case GlobalAvgPool():
            shape = context.read(op.input, "map")
            context.spend(math.prod(shape))
            context.write(op.output, "vector", shape[2:])
        case Linear():
            inputs = context.read(op.input, "vector")[0]
            outputs = context.tensor(op.weight, None, inputs).shape[0]
            context.keep(outputs, inputs + CONSTANTS)
            _optional(op.bias, outputs, context, "bias")
            context.write(op.output, "vector", (outputs,))
            context.spend(inputs * outputs)
        case Concat():
            _concat(op, context)
        case Transpose():
            shape = context.read(op.input, "map", "image")
            height, width, channels = context.write(op.output, "map", None)
            image = context.program.buffers[op.input].kind == "image"
            rows, columns = (shape[0], shape[1] * shape[2]) if image else (shape[0] * shape[1], shape[2])
            if (height * width, channels) != (columns, rows):
                raise context.error(f"output: expected {columns} pixels of {rows} channels")
        case Reshape():
            shape = context.read(op.input, "map", "vector")
            kind = "vector" if _kind(op.output, context) == "vector" else "map"
            if math.prod(context.write(op.output, kind, None)) != math.prod(shape):
                raise context.error("output: another number of elements than the input")


def _kind(buffer: int, context: Context) -> str:
    buffers = context.program.buffers
    return buffers[buffer].kind if 0 <= buffer < len(buffers) else "map"


def _optional(name: str | None, size: int, context: Context, field: str) -> None:
    if name is not None:
        context.tensor(name, size, field=field)


def _window(kernel: Pair, stride: Pair, padding: Pair, context: Context, largest_padding: Pair) -> None:
    for field, pair in (("kernel", kernel), ("stride", stride)):
        if not all(1 <= value <= MAX_KERNEL for value in pair):
            raise context.error(f"{field}: {list(pair)} must be 1 to {MAX_KERNEL}")
    if not all(0 <= value <= most for value, most in zip(padding, largest_padding, strict=True)):
        raise context.error(f"padding: {list(padding)} is out of range for a kernel of {list(kernel)}")


def _conv_shape(shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, context: Context) -> Pair:
    _window(kernel, stride, padding, context, (kernel[0] - 1, kernel[1] - 1))
    height, width = (conv_size(*args) for args in zip(shape[:2], kernel, stride, padding, strict=True))
    if height < 1 or width < 1:
        raise context.error(f"the kernel {list(kernel)} is larger than its padded input {list(shape[:2])}")
    return height, width


def _conv2d(op: Conv2d, context: Context) -> None:
    shape = context.read(op.input, "map", "image")
    if context.program.buffers[op.input].kind == "image":
        shape = (*shape[1:], shape[0])
    if op.groups < 1 or shape[2] % op.groups:
        raise context.error(f"groups: {op.groups} does not divide {shape[2]} input channels")
    outputs, rows, columns, depth = context.tensor(op.weight, None, None, None, shape[2] // op.groups).shape
    if outputs % op.groups:
        raise context.error(f"groups: {op.groups} does not divide {outputs} output channels")
    _optional(op.bias, outputs, context, "bias")
    height, width = _conv_shape(shape, (rows, columns), op.stride, op.padding, context)
    _reduction(rows * columns * depth, context)
    context.keep(outputs, rows * columns * depth)
    context.spend(height * width * outputs * rows * columns * depth)
    _epilogue(op.epilogue, (height, width, outputs), context)


def _reduction(size: int, context: Context) -> None:
    if size > MAX_REDUCTION:
        raise context.error(f"weight: a sum of {size} terms; at most {MAX_REDUCTION}")


def _binary_conv2d(op: BinaryConv2d, context: Context) -> None:
    shape = context.read(op.input, "bits")
    depth = shape[2]
    if not 1 <= len(op.branches) <= 3:
        raise context.error(f"branches: expected 1 to 3, got {len(op.branches)}")
    wanted: tuple[int | None, ...] = (None, None, None, words(depth))
    for branch in op.branches:
        weight = context.tensor(branch.weight, *wanted, dtype=np.uint32)
        wanted = weight.shape
        _padding_bits(weight, depth, branch.weight, context)
        context.tensor(branch.scale, weight.shape[0], field="scale")
    outputs, rows, columns, _ = weight.shape
    height, width = _conv_shape(shape, (rows, columns), op.stride, op.padding, context)
    if (
        math.prod(size + 2 * pad for size, pad in zip(shape[:2], op.padding, strict=True)) * words(depth)
        > MAX_PADDED_WORDS
    ):
        raise context.error(f"padding: the padded input has more than {MAX_PADDED_WORDS} words")
    plain = (rows, columns, *op.stride, *op.padding) == (1, 1, 1, 1, 0, 0) and depth % 4 == 0
    if not plain and any(branch.shift != "none" for branch in op.branches):
        raise context.error("branches: a shift needs a 1x1 kernel, stride 1, no padding and channels divisible by 4")
    _reduction(rows * columns * depth, context)
    # Bytes that have four bits each; for each class of border fewer than four times the taps.
    context.keep(outputs, len(op.branches) * rows * columns * (2 * words(depth) + 4))
    context.spend(height * width * outputs * rows * columns * depth * len(op.branches))
    _epilogue(op.epilogue, (height, width, outputs), context)


def _padding_bits(weight: npt.NDArray[Any], channels: int, name: str, context: Context) -> None:
    used = channels % 32
    if used and (weight[..., -1] >> np.uint32(used)).any():
        raise context.error(f"weight: tensor {name!r} has padding bits set")


def _pool(op: AvgPool | MaxPool, context: Context) -> None:
    shape = context.read(op.input, "map")
    _window(op.kernel, op.stride, op.padding, context, (op.kernel[0] // 2, op.kernel[1] // 2))
    height, width = (
        pool_size(*args, op.ceil) for args in zip(shape[:2], op.kernel, op.stride, op.padding, strict=True)
    )
    if height < 1 or width < 1:
        raise context.error(f"the kernel {list(op.kernel)} is larger than its padded input {list(shape[:2])}")
    context.spend(height * width * shape[2] * op.kernel[0] * op.kernel[1])
    context.write(op.output, "map", (height, width, shape[2]))


def _concat(op: Concat, context: Context) -> None:
    if not 2 <= len(op.inputs) <= MAX_CONCAT:
        raise context.error(f"inputs: expected 2 to {MAX_CONCAT}, got {len(op.inputs)}")
    kind = "vector" if _kind(op.inputs[0], context) == "vector" else "map"
    shapes = [context.read(buffer, kind, field=f"inputs[{i}]") for i, buffer in enumerate(op.inputs)]
    if any(shape[:-1] != shapes[0][:-1] for shape in shapes):
        raise context.error("inputs: maps of different height or width")
    context.write(op.output, kind, (*shapes[0][:-1], sum(shape[-1] for shape in shapes)))


def _epilogue(epilogue: Epilogue, shape: tuple[int, ...], context: Context, dynamic: bool = False) -> None:
    """`shape` is that of the op's value (H', W', O); `dynamic` allows per-image thresholds."""
    outputs = shape[2]
    context.keep(outputs, CONSTANTS)
    if epilogue.gain is not None:
        _vector(epilogue.gain, outputs, context, "epilogue.gain")
    if epilogue.beta is not None:
        _vector(epilogue.beta, outputs, context, "epilogue.beta")
    _optional(epilogue.mul, outputs, context, "epilogue.mul")
    _optional(epilogue.add, outputs, context, "epilogue.add")
    if epilogue.shortcut is not None:
        _shortcut(epilogue.shortcut, shape, context)
    if epilogue.prelu is not None:
        for field in ("bias_in", "slope", "bias_out"):
            _optional(getattr(epilogue.prelu, field), outputs, context, f"epilogue.prelu.{field}")
    if epilogue.map is None and not epilogue.bits:
        raise context.error("epilogue: no result, neither map nor bits")
    if len(epilogue.bits) > MAX_BITS:
        raise context.error(f"epilogue.bits: {len(epilogue.bits)} results; at most {MAX_BITS}")
    for index, bits in enumerate(epilogue.bits):
        _bits(bits, outputs, context, f"epilogue.bits[{index}]", dynamic)
    # Writes come last: a result is not readable by its own op.
    if epilogue.map is not None:
        context.write(epilogue.map, "map", shape, "epilogue.map")
    for index, bits in enumerate(epilogue.bits):
        context.write(bits.buffer, "bits", shape, f"epilogue.bits[{index}].buffer")


def _bits(bits: Bits, outputs: int, context: Context, field: str, dynamic: bool) -> None:
    _optional(bits.bias, outputs, context, f"{field}.bias")
    if bits.alpha is not None:
        if not dynamic:
            raise context.error(f"{field}.alpha: only an elementwise op may have a per-image threshold")
        _vector(bits.alpha, outputs, context, f"{field}.alpha")


def _vector(buffer: int, size: int, context: Context, field: str) -> None:
    if context.read(buffer, "vector", field=field) != (size,):
        raise context.error(f"{field}: buffer {buffer} has not {size} elements")


def _shortcut(shortcut: Shortcut, shape: tuple[int, ...], context: Context) -> None:
    height, width, channels = context.read(shortcut.buffer, "map", field="epilogue.shortcut.buffer")
    if shortcut.avg_pool:
        height, width = (height + 1) // 2, (width + 1) // 2
    if shortcut.duplicate:
        channels *= 2
    if (height, width, channels) != shape:
        raise context.error(f"epilogue.shortcut: gives {[height, width, channels]}; expected {list(shape)}")
