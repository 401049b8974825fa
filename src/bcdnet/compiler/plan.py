"""Fused graph -> packed program: chains of steps become epilogues, values become buffers, constants become tensors.

A chain is an op and the steps after it, each reading the one before alone and each later in the epilogue's order
(gain, beta, mul, add, shortcut, prelu). Its last value, the tail, becomes the op's results: bits for every sign that
reads it and a map where anything else does. The op is placed where its tail stands, where all that the steps read is
known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bcdnet.compiler.ir import Graph, Node
from bcdnet.errors import CompileError
from bcdnet.program.reference import pack_bits
from bcdnet.program.schema import (
    AvgPool,
    BinaryConv2d,
    Bits,
    Branch,
    Buffer,
    Concat,
    Conv2d,
    Elementwise,
    Epilogue,
    GlobalAvgPool,
    Id,
    Linear,
    MaxPool,
    Op,
    Port,
    Prelu,
    Program,
    Reshape,
    Shortcut,
    Tensor,
    Transpose,
    Unpack,
)

ORDER = {"conv2d": 0, "binary_conv2d": 0, "gain": 1, "beta": 2, "mul": 3, "add": 4, "shortcut": 5, "prelu": 6}


def plan(graph: Graph) -> Program:
    """The program of a graph, without labels, preprocessing and provenance."""
    return _Planner(graph).run()


class _Planner:
    """The program under construction."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users = graph.users()
        self.buffers: list[Buffer] = []
        self.ids: dict[Node, Id] = {}
        self.ops: list[Op] = []
        self.tensors: dict[str, npt.NDArray[Any]] = {}
        self.names: dict[str, int] = {}
        self.main = {node: self._main(node) for node in graph.nodes if node.type in ORDER}
        self.folded: set[Node] = set()
        self.shortcuts = {node: self._fold_shortcut(node) for node in self.main if node.type == "shortcut"}

    def run(self) -> Program:
        self._buffer(self.graph.image)
        for node in self.graph.nodes:
            if node in self.folded or node.type in ("image", "shift"):
                continue
            if node.type in ORDER:
                if self._continuation(node) is None:
                    self._chain(node)
            elif node.type == "sign":
                self._sign(node)
            else:
                self._plain(node)
        outputs = tuple(Port(name, self.ids[node]) for name, node in self.graph.outputs.items())
        return Program(
            buffers=tuple(self.buffers),
            ops=tuple(self.ops),
            inputs=(Port("image", self.ids[self.graph.image]),),
            outputs=outputs,
            tensors=self.tensors,
        )

    # Which steps belong to which op.

    def _continuation(self, node: Node) -> Node | None:
        """The step that goes on from this value within the same op."""
        readers = self.users[node]
        if node.type not in ORDER or len(readers) != 1 or ORDER.get(readers[0].type, 0) <= ORDER[node.type]:
            return None
        step = readers[0]
        if (node.type, step.type) == ("mul", "add") and node.name != step.name:
            return None  # of two functions, of which each rounds; those of one, as batch norm's, round once
        return step if self.main[step] is node else None

    def _main(self, step: Node) -> Node:
        """What a step goes on from: of two summands a binary convolution's if possible, whose epilogue sums then."""
        if step.type != "shortcut":
            return step.inputs[0]
        able = [
            node
            for node in step.inputs
            if self.users[node] == [step] and ORDER.get(node.type, ORDER["shortcut"]) < ORDER["shortcut"]
        ]
        binary = [node for node in able if self._base(node).type == "binary_conv2d"]
        return (binary or able[::-1] or step.inputs)[0]

    def _base(self, node: Node) -> Node:
        while node.type in ("gain", "beta", "mul", "add") and self.users[node.inputs[0]] == [node]:
            node = node.inputs[0]
        return node

    def _fold_shortcut(self, step: Node) -> tuple[Node, bool, bool]:
        """The map that the epilogue reads, and whether duplicated and pooled, where pooling and duplicating are its
        own.
        """
        node = step.inputs[1] if self.main[step] is step.inputs[0] else step.inputs[0]
        duplicate = avg_pool = False
        # A map that is added to itself is the main summand too, which must be there.
        while node is not self.main[step] and len(set(self.users[node])) == 1:
            if not duplicate and node.type == "concat" and len(node.inputs) == 2 and len(set(node.inputs)) == 1:
                duplicate = True
            elif not avg_pool and _halves(node):
                avg_pool = True
            else:
                break
            self.folded.add(node)
            node = node.inputs[0]
        return node, duplicate, avg_pool

    # Ops.

    def _chain(self, tail: Node) -> None:
        nodes = [tail]
        while self._continuation(source := self.main[nodes[0]]) is nodes[0]:
            nodes.insert(0, source)
        first = nodes[0]
        name = self._name(first.name)
        if ORDER[first.type] == 0:
            op, fields = self._convolution(first, name)
            steps = nodes[1:]
        else:
            op, fields, steps = Elementwise, {}, nodes
        self.ops.append(op(name=name, input=self.ids[source], **fields, epilogue=self._epilogue(name, steps, tail)))

    def _convolution(self, node: Node, name: str) -> tuple[Callable[..., Op], dict[str, Any]]:
        """Which op it becomes, and its fields but for the name, the input and the epilogue."""
        attrs = node.attrs
        geometry = {"stride": attrs["stride"], "padding": attrs["padding"]}
        if node.type == "conv2d":
            weight, bias = self._tensor(name, "weight", attrs["weight"]), self._optional(name, "bias", attrs["bias"])
            return Conv2d, {"weight": weight, "bias": bias, "groups": attrs["groups"], **geometry}
        branches = tuple(
            Branch(
                weight=self._tensor(name, f"weight{i}", pack_bits(weight)),
                scale=self._tensor(name, f"scale{i}", scale),
                shift=shift,
            )
            for i, (weight, scale, shift) in enumerate(attrs["branches"])
        )
        return BinaryConv2d, {"branches": branches, **geometry}

    def _epilogue(self, name: str, steps: list[Node], tail: Node) -> Epilogue:
        """The steps of a chain as an epilogue, with results for everything that reads the tail."""
        fields: dict[str, Any] = {}
        for step in steps:
            if step.type in ("mul", "add"):
                fields[step.type] = self._tensor(name, step.type, step.attrs["constant"])
            elif step.type in ("gain", "beta"):
                fields[step.type] = self.ids[step.inputs[1]]
            elif step.type == "shortcut":
                other, duplicate, avg_pool = self.shortcuts[step]
                fields["shortcut"] = Shortcut(self.ids[other], duplicate, avg_pool)
            else:
                bias_in, slope, bias_out = (step.attrs[key] for key in ("bias_in", "slope", "bias_out"))
                fields["prelu"] = Prelu(
                    bias_in=self._optional(name, "bias_in", bias_in),
                    slope=self._tensor(name, "slope", slope),
                    bias_out=self._optional(name, "bias_out", bias_out),
                )
        signs = self._static_signs(tail)
        if any(reader not in signs for reader in self.users[tail]):
            fields["map"] = self._buffer(tail)
        return Epilogue(**fields, bits=tuple(self._bits(name, i, sign) for i, sign in enumerate(signs)))

    def _static_signs(self, node: Node) -> list[Node]:
        return [reader for reader in self.users[node] if reader.type == "sign" and len(reader.inputs) == 1]

    def _bits(self, name: str, index: int, sign: Node) -> Bits:
        bias = self._optional(name, f"threshold{index}", sign.attrs["bias"])
        alpha = self.ids[sign.inputs[1]] if len(sign.inputs) == 2 else None
        return Bits(buffer=self._buffer(sign), bias=bias, alpha=alpha)

    def _sign(self, node: Node) -> None:
        """A sign that no chain has taken: of a map that an op without epilogue made, or with a dynamic threshold."""
        if node in self.ids:
            return
        source = node.inputs[0]
        signs = [node] if len(node.inputs) == 2 else self._static_signs(source)
        name = self._name(node.name)
        bits = tuple(self._bits(name, i, sign) for i, sign in enumerate(signs))
        self.ops.append(Elementwise(name=name, input=self.ids[source], epilogue=Epilogue(bits=bits)))

    def _plain(self, node: Node) -> None:
        name, attrs = self._name(node.name), node.attrs
        sources = tuple(self.ids[source] for source in node.inputs)
        ends: dict[str, Any] = {"name": name, "input": sources[0], "output": self._buffer(node)}
        match node.type:
            case "unpack":
                op: Op = Unpack(**ends)
            case "avg_pool":
                op = AvgPool(**ends, **attrs)
            case "max_pool":
                op = MaxPool(**ends, **attrs)
            case "global_avg_pool":
                op = GlobalAvgPool(**ends)
            case "linear":
                weight = self._tensor(name, "weight", attrs["weight"])
                op = Linear(**ends, weight=weight, bias=self._optional(name, "bias", attrs["bias"]))
            case "concat":
                op = Concat(name=name, inputs=sources, output=ends["output"])
            case "transpose":
                op = Transpose(**ends)
            case "reshape":
                op = Reshape(**ends)
            case _:
                raise CompileError(f"{node.name}: no op for {node.type}")
        self.ops.append(op)

    # Names, buffers, tensors.

    def _name(self, wanted: str) -> str:
        """The module path, with `#2` and so on where a module runs more than once."""
        self.names[wanted] = count = self.names.get(wanted, 0) + 1
        return wanted if count == 1 else f"{wanted}#{count}"

    def _buffer(self, node: Node) -> Id:
        self.ids[node] = Id(len(self.buffers))
        self.buffers.append(Buffer(node.kind, node.shape))
        return self.ids[node]

    def _optional(self, op: str, field: str, values: Any) -> Tensor | None:
        return None if values is None else self._tensor(op, field, values)

    def _tensor(self, op: str, field: str, values: npt.NDArray[Any]) -> Tensor:
        dtype = np.uint32 if values.dtype == np.uint32 else np.float32
        self.tensors[f"{op}.{field}"] = np.ascontiguousarray(values, dtype)
        return Tensor(f"{op}.{field}")


def _halves(node: Node) -> bool:
    """Whether it pools as an epilogue's shortcut does: 2 x 2 windows, stride 2, a partial window at an odd end."""
    if node.type != "avg_pool":
        return False
    geometry = (node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"])
    height, width = node.inputs[0].shape[:2]
    return geometry == ((2, 2), (2, 2), (0, 0)) and node.shape[:2] == ((height + 1) // 2, (width + 1) // 2)
