"""Plain numpy execution of a program: the oracle for the compiler and for the native core.

Every rounding happens where docs/format.md says: sums run tap by tap over float32 arrays; only the binary convolution
takes a matrix product, whose terms are small integers and therefore exact in any order.
Shape legend: `N` images, then as in `schema`. All arrays are float32; a `bits` buffer is held as its ±1 values.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from bcdnet.program.fma import fma
from bcdnet.program.schema import (
    AvgPool,
    BinaryConv2d,
    Branch,
    Concat,
    Conv2d,
    Elementwise,
    Epilogue,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Op,
    Pair,
    Program,
    Reshape,
    Shortcut,
    Transpose,
    Unpack,
    conv_size,
    pool_size,
)

Array = npt.NDArray[np.float32]


Observer = Callable[[Op, dict[int, Array]], None]


def execute(program: Program, image: Array, *, observe: Observer | None = None) -> list[Array]:
    """Outputs [N, C] for images [N, C, H, W]; the program must be valid.

    `observe(op, buffers)` is called after each op with all buffers written so far.
    """
    values: dict[int, Array] = {program.inputs[0].buffer: np.asarray(image, np.float32)}
    with np.errstate(all="ignore"):
        for op in program.ops:
            _Executor(program, values).run(op)
            if observe is not None:
                observe(op, values)
    return [values[port.buffer] for port in program.outputs]


def unpack_bits(packed: npt.NDArray[np.uint32], channels: int) -> Array:
    """Words [..., ceil(C/32)] to ±1.0 [..., C]."""
    octets = packed.astype("<u4").view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, count=channels, bitorder="little")
    return bits.astype(np.float32) * 2 - 1


def pack_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Any array [..., C] to words [..., ceil(C/32)]: bit 1 where the value is >= 0."""
    bits = values >= 0
    padding = -bits.shape[-1] % 32
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, padding)])
    return np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little")).view("<u4").astype(np.uint32)


def roll(values: Array, shift: str) -> Array:
    """[N, H, W, C] with its channel quarters moved down, up, right, left by 1 (`short`) or half the map (`long`)."""
    if shift == "none":
        return values
    height, width = values.shape[1:3]
    rows, columns = (1, 1) if shift == "short" else (height // 2, width // 2)
    quarters = zip(np.split(values, 4, axis=3), ((rows, 1), (-rows, 1), (columns, 2), (-columns, 2)), strict=True)
    return np.concatenate([np.roll(part, step, axis) for part, (step, axis) in quarters], axis=3)


class _Executor:
    """The buffers of one run, and one method per kind of work."""

    def __init__(self, program: Program, values: dict[int, Array]) -> None:
        self.program = program
        self.values = values

    def run(self, op: Op) -> None:
        values = self.values
        match op:
            case Conv2d():
                self.epilogue(op.epilogue, self.conv2d(op))
            case BinaryConv2d():
                parts = [self.binary_branch(op, branch) for branch in op.branches]
                total = parts[0]
                for part in parts[1:]:
                    total = total + part
                self.epilogue(op.epilogue, total)
            case Elementwise():
                self.epilogue(op.epilogue, values[op.input])
            case Unpack():
                values[op.output] = values[op.input]
            case AvgPool() | MaxPool():
                values[op.output] = _pool(op, values[op.input])
            case GlobalAvgPool():
                source = values[op.input]
                height, width = source.shape[1:3]
                sums = np.zeros((source.shape[0], source.shape[3]), np.float64)
                for y, x in product(range(height), range(width)):
                    sums = sums + source[:, y, x]
                values[op.output] = (sums / (height * width)).astype(np.float32)
            case Linear():
                values[op.output] = self.linear(op)
            case Concat():
                values[op.output] = np.concatenate([values[buffer] for buffer in op.inputs], axis=-1)
            case Transpose():
                self.transpose(op)
            case Reshape():
                values[op.output] = values[op.input].reshape(-1, *self.program.buffers[op.output].shape)

    def tensor(self, name: str) -> Array:
        array: Array = self.program.tensors[name]
        return array

    def conv2d(self, op: Conv2d) -> Array:
        source, weight = self.values[op.input], self.tensor(op.weight)
        if self.program.buffers[op.input].kind == "image":
            source = source.transpose(0, 2, 3, 1)
        outputs, *kernel, depth = weight.shape
        per_group = outputs // op.groups
        # A tap outside the map reads 0 and adds ±0 to a sum that starts at +0: the same as leaving it out.
        taps = _taps(source, (kernel[0], kernel[1]), op.stride, op.padding)
        total = np.zeros((*taps[0][2].shape[:3], outputs), np.float32)
        for ky, kx, tap in taps:
            for ci in range(depth):
                channels = np.repeat(tap[..., ci::depth], per_group, axis=-1)
                total = fma(weight[:, ky, kx, ci], channels, total)
        return total if op.bias is None else total + self.tensor(op.bias)

    def binary_branch(self, op: BinaryConv2d, branch: Branch) -> Array:
        source = roll(self.values[op.input], branch.shift)
        weight = unpack_bits(self.program.tensors[branch.weight], source.shape[3])
        kernel = (weight.shape[1], weight.shape[2])
        total = sum(tap @ weight[:, ky, kx].T for ky, kx, tap in _taps(source, kernel, op.stride, op.padding))
        return total * self.tensor(branch.scale)

    def linear(self, op: Linear) -> Array:
        source, weight = self.values[op.input], self.tensor(op.weight)
        wide = source.astype(np.float64), weight.astype(np.float64)
        total = np.zeros((source.shape[0], weight.shape[0]), np.float64)
        for i in range(weight.shape[1]):
            total = total + wide[0][:, i, None] * wide[1][:, i]
        return (total if op.bias is None else total + self.tensor(op.bias)).astype(np.float32)

    def transpose(self, op: Transpose) -> None:
        source = self.values[op.input]
        image = self.program.buffers[op.input].kind == "image"
        # An image is channels x pixels, a map pixels x channels: which axes make the rows of the matrix.
        rows = source.shape[1] if image else source.shape[1] * source.shape[2]
        matrix = source.reshape(source.shape[0], rows, -1)
        self.values[op.output] = matrix.transpose(0, 2, 1).reshape(-1, *self.program.buffers[op.output].shape)

    def epilogue(self, epilogue: Epilogue, v: Array) -> None:
        values, tensor = self.values, self.tensor
        if epilogue.gain is not None:
            v = v * values[epilogue.gain][:, None, None]
        if epilogue.beta is not None:
            v = v + values[epilogue.beta][:, None, None]
        if epilogue.mul is not None and epilogue.add is not None:
            v = fma(v, tensor(epilogue.mul), tensor(epilogue.add))
        elif epilogue.mul is not None:
            v = v * tensor(epilogue.mul)
        elif epilogue.add is not None:
            v = v + tensor(epilogue.add)
        if epilogue.shortcut is not None:
            v = v + _shortcut(epilogue.shortcut, values[epilogue.shortcut.buffer])
        if (prelu := epilogue.prelu) is not None:
            v = v if prelu.bias_in is None else v + tensor(prelu.bias_in)
            v = np.where(v > 0, v, v * tensor(prelu.slope))
            v = v if prelu.bias_out is None else v + tensor(prelu.bias_out)
        if epilogue.map is not None:
            values[epilogue.map] = v
        for bits in epilogue.bits:
            t = v if bits.bias is None else v + tensor(bits.bias)
            t = t if bits.alpha is None else t - values[bits.alpha][:, None, None]
            values[bits.buffer] = np.where(t >= 0, np.float32(1), np.float32(-1))


def _taps(source: Array, kernel: Pair, stride: Pair, padding: Pair) -> list[tuple[int, int, Array]]:
    """(ky, kx, [N, H', W', C]) for every tap, zeros outside the map."""
    height, width = (conv_size(*args) for args in zip(source.shape[1:3], kernel, stride, padding, strict=True))
    padded = np.pad(source, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    return [
        (ky, kx, padded[:, ky : ky + (height - 1) * stride[0] + 1 : stride[0],
                        kx : kx + (width - 1) * stride[1] + 1 : stride[1]])
        for ky, kx in product(range(kernel[0]), range(kernel[1]))
    ]  # fmt: skip


def _shortcut(shortcut: Shortcut, source: Array) -> Array:
    if shortcut.avg_pool:
        source = _window_average(source, (2, 2), (2, 2), (0, 0), ceil=True, count_include_pad=False)
    return np.concatenate([source, source], axis=3) if shortcut.duplicate else source


def _pool(op: AvgPool | MaxPool, source: Array) -> Array:
    if isinstance(op, AvgPool):
        return _window_average(source, op.kernel, op.stride, op.padding, op.ceil, op.count_include_pad)
    windows = _windows(source, op.kernel, op.stride, op.padding, op.ceil)
    best = np.full((source.shape[0], *windows[0][2].shape, source.shape[3]), -np.inf, np.float32)
    for y, x, inside in windows:
        best = np.where(inside[..., None], np.maximum(best, source[:, y[:, None], x[None, :]]), best)
    return best


def _window_average(
    source: Array, kernel: Pair, stride: Pair, padding: Pair, ceil: bool, count_include_pad: bool
) -> Array:
    windows = _windows(source, kernel, stride, padding, ceil)
    count = np.zeros(windows[0][2].shape, np.float32)
    total = np.zeros((source.shape[0], *count.shape, source.shape[3]), np.float32)
    for y, x, inside in windows:
        total = total + np.where(inside[..., None], source[:, y[:, None], x[None, :]], np.float32(0))
        count = count + inside.astype(np.float32)
    if count_include_pad:
        areas = []
        for size, k, s, p in zip(source.shape[1:3], kernel, stride, padding, strict=True):
            start = np.arange(pool_size(size, k, s, p, ceil)) * s - p
            areas.append(np.minimum(start + k, size + p) - start)
        count = (areas[0][:, None] * areas[1][None, :]).astype(np.float32)
    return total / count[..., None]


def _windows(
    source: Array, kernel: Pair, stride: Pair, padding: Pair, ceil: bool
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.bool_]]]:
    """(row indices [H'], column indices [W'], inside the map? [H', W']) for every tap, indices clipped to the map."""
    axes = []
    for size, k, s, p in zip(source.shape[1:3], kernel, stride, padding, strict=True):
        start = np.arange(pool_size(size, k, s, p, ceil)) * s - p
        axes.append([(np.clip(start + t, 0, size - 1), (start + t >= 0) & (start + t < size)) for t in range(k)])
    return [(y, x, in_y[:, None] & in_x[None, :]) for (y, in_y), (x, in_x) in product(*axes)]
