"""A packed program as an ONNX model: the bits as float32 ±1, standard operators only.

Each operator computes in float32 what docs/format.md says of its op. Convolutions of ±1 are exact integers there too;
what may differ is the last bit of sums of real values, whose order ONNX leaves to the engine, and of `fma`, which it
does not have.

Legend: N images (free), C channels, H and W rows and columns, I/O channels in/out. Maps and bits are [N, C, H, W] here,
[H, W, C] in a program.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from bcdnet.errors import InteropError
from bcdnet.program import to_json
from bcdnet.program.file import write_whole
from bcdnet.program.schema import (
    AvgPool,
    BinaryConv2d,
    Bits,
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
)

OPSET = 17
IR_VERSION = 8  # of that opset's time, so that older engines read the file
METADATA = ("labels", "preprocess", "provenance")


def to_onnx(program: Program) -> onnx.ModelProto:
    """The ONNX model, checked; its metadata hold labels, preprocessing and provenance as JSON.

    Raises InteropError for an output with the input's name, which ONNX does not allow.
    """
    if program.inputs[0].name in (port.name for port in program.outputs):
        raise InteropError(f"output {program.inputs[0].name!r}: is what the input is called; ONNX wants another name")
    graph = _Graph(program)
    for op in program.ops:
        graph.add_op(op)
    model = helper.make_model(
        graph.finish(), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="bcdnet"
    )
    document = to_json(program)
    helper.set_model_props(model, {key: json.dumps(document[key]) for key in METADATA})
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(program: Program, path: str | os.PathLike[str]) -> Path:
    """Write `to_onnx(program)`, beside the target and then renamed. Raises InteropError where that is not possible."""
    return write_whole(Path(path), to_onnx(program).SerializeToString(), InteropError)


class _Graph:
    """Nodes and constants so far, and the name of the value that each buffer of the program became."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.values: dict[int, str] = {program.inputs[0].buffer: program.inputs[0].name}
        self.scope = ""
        self.ports = {port.name for port in (*program.inputs, *program.outputs)}

    def finish(self) -> onnx.GraphProto:
        """The graph with its input and outputs named as the program's ports."""
        ports = {port.name: self.program.buffers[port.buffer].shape for port in self.program.outputs}
        for port in self.program.outputs:
            self.nodes.append(helper.make_node("Identity", [self.values[port.buffer]], [port.name]))
        (port,) = self.program.inputs
        float32 = onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info(port.name, float32, ["N", *self.program.buffers[port.buffer].shape])
        results = [helper.make_tensor_value_info(name, float32, ["N", *shape]) for name, shape in ports.items()]
        return helper.make_graph(self.nodes, "bcdnet", [image], results, list(self.constants.values()))

    def name(self, own: str) -> str:
        """The op's path and a name of its own: no port's."""
        name = f"{self.scope}/{own}"
        while name in self.ports:
            name = f"/{name}"
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator; the name of its one result."""
        result = self.name(f"{kind}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, inputs, [result], name=result, **attributes))
        return result

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = self.name(f"constant_{len(self.constants)}")
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def tensor(self, name: str) -> npt.NDArray[Any]:
        return self.program.tensors[name]

    def channels(self, name: str) -> str:
        """A tensor [O] as a constant [O, 1, 1], which broadcasts over maps."""
        return self.constant(self.tensor(name)[:, None, None])

    def vector(self, buffer: int) -> str:
        """A vector [N, C] as [N, C, 1, 1]."""
        return self.node("Unsqueeze", self.values[buffer], self.integers(2, 3))

    def size(self, buffer: int) -> tuple[int, ...]:
        return self.program.buffers[buffer].shape

    # ---- Ops

    def add_op(self, op: Op) -> None:
        self.scope = op.name
        match op:
            case Conv2d():
                inputs = [self.values[op.input], self.constant(self.tensor(op.weight).transpose(0, 3, 1, 2))]
                if op.bias is not None:
                    inputs.append(self.constant(self.tensor(op.bias)))
                value = self.node("Conv", *inputs, group=op.groups, **_window(op.stride, op.padding))
                self.epilogue(value, op.epilogue)
            case BinaryConv2d():
                branches = [self.branch(op, branch) for branch in op.branches]
                value = branches[0]
                for other in branches[1:]:
                    value = self.node("Add", value, other)
                self.epilogue(value, op.epilogue)
            case Elementwise():
                self.epilogue(self.values[op.input], op.epilogue)
            case Unpack():
                self.values[op.output] = self.values[op.input]
            case AvgPool() | MaxPool():
                self.values[op.output] = self.pool(op)
            case GlobalAvgPool():
                self.values[op.output] = self.node("Flatten", self.node("GlobalAveragePool", self.values[op.input]))
            case Linear():
                inputs = [self.values[op.input], self.constant(self.tensor(op.weight))]
                if op.bias is not None:
                    inputs.append(self.constant(self.tensor(op.bias)))
                self.values[op.output] = self.node("Gemm", *inputs, transB=1)
            case Concat():
                self.values[op.output] = self.node("Concat", *(self.values[buffer] for buffer in op.inputs), axis=1)
            case Transpose():
                self.values[op.output] = self.transpose(op)
            case Reshape():
                self.values[op.output] = self.reshape(op)

    def branch(self, op: BinaryConv2d, branch: Branch) -> str:
        """One binary convolution with its scale. The weight is stored as int8, a quarter of float32."""
        bits = np.unpackbits(self.tensor(branch.weight).view(np.uint8), axis=-1, bitorder="little")
        signs = bits[..., : self.size(op.input)[2]].astype(np.int8) * 2 - 1
        weight = self.node("Cast", self.constant(signs.transpose(0, 3, 1, 2)), to=onnx.TensorProto.FLOAT)
        source = self.values[op.input]
        if branch.shift != "none":
            height, width, channels = self.size(op.input)
            rows, columns = (1, 1) if branch.shift == "short" else (height // 2, width // 2)
            source = self.shift(source, channels // 4, (rows % height, columns % width))
        value = self.node("Conv", source, weight, **_window(op.stride, op.padding))
        # Of whole numbers nothing; without it engines fold the scale into the weight, and sums that are 0 miss it.
        value = self.node("Round", value)
        return self.node("Mul", value, self.channels(branch.scale))

    def shift(self, source: str, quarter: int, steps: Pair) -> str:
        """The four quarters of the channels rolled down, up, right and left, around the map."""
        rows, columns = steps
        parts = []
        for index, (axis, step) in enumerate(((2, rows), (2, -rows), (3, columns), (3, -columns))):
            begin, end = self.integers(index * quarter), self.integers((index + 1) * quarter)
            part = self.node("Slice", source, begin, end, self.integers(1))
            if step != 0:
                turn, last = self.integers(-step), self.integers(np.iinfo(np.int64).max)
                head = self.node("Slice", part, turn, last, self.integers(axis))
                tail = self.node("Slice", part, self.integers(0), turn, self.integers(axis))
                part = self.node("Concat", head, tail, axis=axis)
            parts.append(part)
        return self.node("Concat", *parts, axis=1)

    def pool(self, op: AvgPool | MaxPool) -> str:
        # Of ceil_mode, shape inference and engines have different notions: what it reaches beyond is padding here.
        sizes = zip(self.size(op.input), self.size(op.output), op.kernel, op.stride, op.padding, strict=False)
        beyond = [max(0, (out - 1) * step + kernel - size - 2 * pad) for size, out, kernel, step, pad in sizes]
        source, padding = self.values[op.input], op.padding
        counted = isinstance(op, AvgPool) and op.count_include_pad and padding != (0, 0)
        if counted and any(beyond):  # of which an average never counts what is beyond
            source = self.node("Pad", source, self.integers(*2 * (0, 0, *padding)))
            padding, counted = (0, 0), False
        ends = [pad + more for pad, more in zip(padding, beyond, strict=True)]
        attributes = {"strides": list(op.stride), "pads": [*padding, *ends], "kernel_shape": list(op.kernel)}
        if isinstance(op, MaxPool):
            return self.node("MaxPool", source, **attributes)
        return self.node("AveragePool", source, count_include_pad=int(counted), **attributes)

    def transpose(self, op: Transpose) -> str:
        height, width, channels = self.size(op.output)
        value = self.values[op.input]
        if self.program.buffers[op.input].kind == "map":
            pixels = self.node("Reshape", value, self.integers(0, height * width, channels))
            value = self.node("Transpose", pixels, perm=[0, 2, 1])
        return self.node("Reshape", value, self.integers(0, channels, height, width))

    def reshape(self, op: Reshape) -> str:
        value = self.values[op.input]
        if self.program.buffers[op.input].kind == "map":
            value = self.node("Transpose", value, perm=[0, 2, 3, 1])
        value = self.node("Reshape", value, self.integers(0, *self.size(op.output)))
        if self.program.buffers[op.output].kind == "map":
            value = self.node("Transpose", value, perm=[0, 3, 1, 2])
        return value

    # ---- What follows a convolution

    def epilogue(self, value: str, epilogue: Epilogue) -> None:
        if epilogue.gain is not None:
            value = self.node("Mul", value, self.vector(epilogue.gain))
        if epilogue.beta is not None:
            value = self.node("Add", value, self.vector(epilogue.beta))
        if epilogue.mul is not None:
            value = self.node("Mul", value, self.channels(epilogue.mul))
        if epilogue.add is not None:
            value = self.node("Add", value, self.channels(epilogue.add))
        if epilogue.shortcut is not None:
            value = self.node("Add", value, self.shortcut(epilogue.shortcut))
        if epilogue.prelu is not None:
            if epilogue.prelu.bias_in is not None:
                value = self.node("Add", value, self.channels(epilogue.prelu.bias_in))
            value = self.node("PRelu", value, self.channels(epilogue.prelu.slope))
            if epilogue.prelu.bias_out is not None:
                value = self.node("Add", value, self.channels(epilogue.prelu.bias_out))
        if epilogue.map is not None:
            self.values[epilogue.map] = value
        for bits in epilogue.bits:
            self.values[bits.buffer] = self.sign(value, bits)

    def shortcut(self, shortcut: Shortcut) -> str:
        value = self.values[shortcut.buffer]
        if shortcut.avg_pool:
            value = self.node("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        return self.node("Concat", value, value, axis=1) if shortcut.duplicate else value

    def sign(self, value: str, bits: Bits) -> str:
        """±1, and +1 of zero: ONNX's own Sign has sign(0) = 0."""
        if bits.bias is not None:
            value = self.node("Add", value, self.channels(bits.bias))
        if bits.alpha is not None:
            value = self.node("Sub", value, self.vector(bits.alpha))
        zero, one, minus_one = (self.constant(np.array(number, np.float32)) for number in (0, 1, -1))
        return self.node("Where", self.node("GreaterOrEqual", value, zero), one, minus_one)


def _window(stride: Sequence[int], padding: Sequence[int]) -> dict[str, list[int]]:
    return {"strides": list(stride), "pads": [*padding, *padding]}
