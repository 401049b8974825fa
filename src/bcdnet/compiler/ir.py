"""The compiler's intermediate form: one small node per step, in execution order, before fusion.

A node is one value. Its shape is the packed program's (per image): image (C, H, W), map (H, W, C), vector (C,),
bits (H, W, C). `torch_shape` is what the traced module believes it to be, without the batch axis: (C, H, W), (C,), or
(A, B) for a two-dimensional one, held as a map of A pixels and B channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bcdnet.errors import CompileError
from bcdnet.program.schema import Kind, Pair, conv_size, pool_size

NodeType = Literal[
    "image", "conv2d", "binary_conv2d", "gain", "beta", "mul", "add", "shortcut", "prelu", "sign", "shift", "unpack",
    "avg_pool", "max_pool", "global_avg_pool", "linear", "concat", "transpose", "reshape",
]  # fmt: skip


@dataclass(eq=False)
class Node:
    """One value: how it is made (`type`, `inputs`, `attrs`) and its kind and shape."""

    type: NodeType
    name: str
    inputs: list[Node]
    kind: Kind
    shape: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Value:
    """A node as the traced module sees it; `signed` says that its elements are all ±1."""

    node: Node
    torch_shape: tuple[int, ...]
    signed: bool = False


class Graph:
    """Nodes in execution order, and one method for each way of making one."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.image = Node("image", "image", [], "image", (channels, height, width))
        self.nodes: list[Node] = [self.image]
        self.outputs: dict[str, Node] = {}

    def insert(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def users(self) -> dict[Node, list[Node]]:
        """Node -> the nodes that read it, once per reading; an output counts as read by nobody."""
        result: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                result[source].append(node)
        return result

    def prune(self) -> None:
        """Drop what no output depends on (the image stays: it is the program's input)."""
        alive = {self.image, *self.outputs.values()}
        for node in reversed(self.nodes):
            if node in alive:
                alive.update(node.inputs)
        self.nodes = [node for node in self.nodes if node in alive]

    def replace(self, old: Node, new: Node) -> None:
        """Let everything that reads `old` read `new`."""
        for node in self.nodes:
            node.inputs = [new if source is old else source for source in node.inputs]
        self.outputs = {name: new if node is old else node for name, node in self.outputs.items()}

    # Layout: views and the two memory orders.

    def reshape(self, source: Node, kind: Kind, shape: tuple[int, ...], name: str) -> Node:
        """The same elements in the same order; a chain of views is one view, and a view back is the original."""
        if (source.kind, source.shape) == (kind, shape):
            return source
        if source.type == "reshape":
            return self.reshape(source.inputs[0], kind, shape, name)
        return self.insert(Node("reshape", name, [source], kind, shape))

    def copy(self, source: Node, name: str) -> Node:
        """The same vector as a value of its own, for a second output."""
        return self.insert(Node("reshape", name, [source], "vector", source.shape))

    def transpose(self, source: Node, shape: tuple[int, ...], name: str) -> Node:
        """The matrix (pixels x channels, for the image channels x pixels) transposed, as a map of `shape`."""
        rows = source.shape[0] if source.kind == "image" else source.shape[0] * source.shape[1]
        origin = source.inputs[0] if source.type == "reshape" else source
        columns = int(np.prod(source.shape)) // rows
        if origin.type == "transpose" and origin.inputs[0].kind == "map" and origin.shape[-1] == source.shape[-1]:
            return self.reshape(origin.inputs[0], "map", shape, name)
        if source.kind != "image" and 1 in (rows, columns):
            return self.reshape(source, "map", shape, name)
        return self.insert(Node("transpose", name, [source], "map", shape))

    def as_map(self, source: Node, name: str) -> Node:
        """An image or a vector as a map; a map as it is; bits as ±1."""
        if source.kind == "image":
            channels, height, width = source.shape
            return self.transpose(source, (height, width, channels), name)
        if source.kind == "vector":
            return self.reshape(source, "map", (1, 1, source.shape[0]), name)
        if source.kind == "bits":
            return self.insert(Node("unpack", name, [source], "map", source.shape))
        return source

    def as_vector(self, source: Node, name: str) -> Node:
        """A map of one pixel (or a vector) as a vector."""
        source = source if source.kind == "vector" else self.as_map(source, name)
        return self.reshape(source, "vector", (int(np.prod(source.shape)),), name)

    # Elementwise steps on maps.

    def step(self, type_: NodeType, source: Node, name: str, *more: Node, **attrs: Any) -> Node:
        """An elementwise step: `mul`, `add`, `prelu` (per channel), `gain`, `beta` (a vector), `shortcut` (a map)."""
        source = self.as_map(source, name)
        return self.insert(Node(type_, name, [source, *more], "map", source.shape, attrs))

    def sign(self, source: Node, name: str, bias: Any = None, alpha: Node | None = None) -> Node:
        """Bits of `(source + bias) - alpha >= 0`."""
        source = self.as_map(source, name)
        inputs = [source] if alpha is None else [source, alpha]
        return self.insert(Node("sign", name, inputs, "bits", source.shape, {"bias": bias}))

    # Everything else.

    def conv2d(
        self, source: Node, name: str, weight: Any, bias: Any, stride: Pair, padding: Pair, groups: int = 1
    ) -> Node:
        """`weight` in the program's order [O][kh][kw][I/groups]."""
        if source.kind != "image":
            source = self.as_map(source, name)
        height, width = source.shape[1:] if source.kind == "image" else source.shape[:2]
        shape = _window(name, (height, width), (weight.shape[1], weight.shape[2]), stride, padding)
        attrs = {"weight": weight, "bias": bias, "stride": stride, "padding": padding, "groups": groups}
        return self.insert(Node("conv2d", name, [source], "map", (*shape, weight.shape[0]), attrs))

    def binary_conv2d(
        self, source: Node, name: str, branches: list[tuple[Any, Any, str]], stride: Pair, padding: Pair
    ) -> Node:
        """`branches`: (±1 weight [O][kh][kw][I], scale [O], shift); `source` is bits."""
        weight = branches[0][0]
        shape = _window(name, source.shape[:2], (weight.shape[1], weight.shape[2]), stride, padding)
        attrs = {"branches": branches, "stride": stride, "padding": padding}
        return self.insert(Node("binary_conv2d", name, [source], "map", (*shape, weight.shape[0]), attrs))

    def pool(
        self, type_: Literal["avg_pool", "max_pool"], source: Node, name: str, kernel: Pair, stride: Pair,
        padding: Pair, ceil: bool, **attrs: Any,
    ) -> Node:  # fmt: skip
        source = self.as_map(source, name)
        shape = _window(name, source.shape[:2], kernel, stride, padding, ceil)
        attrs |= {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil}
        return self.insert(Node(type_, name, [source], "map", (*shape, source.shape[2]), attrs))

    def global_avg_pool(self, source: Node, name: str) -> Node:
        source = self.as_map(source, name)
        return self.insert(Node("global_avg_pool", name, [source], "vector", source.shape[2:]))

    def linear(self, source: Node, name: str, weight: Any, bias: Any) -> Node:
        """`weight` [O][I]; float64 here, rounded once when the program is written."""
        attrs = {"weight": weight, "bias": bias}
        return self.insert(Node("linear", name, [self.as_vector(source, name)], "vector", weight.shape[:1], attrs))

    def concat(self, sources: Sequence[Node], name: str) -> Node:
        channels = sum(source.shape[-1] for source in sources)
        first = sources[0]
        return self.insert(Node("concat", name, list(sources), first.kind, (*first.shape[:-1], channels)))


def _window(
    name: str, size: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, ceil: bool = False
) -> tuple[int, int]:
    """Output rows and columns of a sliding window."""
    if min(*kernel, *stride) < 1:
        raise CompileError(f"{name}: a kernel of {list(kernel)} with a stride of {list(stride)} does not slide")
    height, width = (
        pool_size(*axis, ceil) if ceil else conv_size(*axis) for axis in zip(size, kernel, stride, padding, strict=True)
    )
    if height < 1 or width < 1:
        raise CompileError(f"{name}: the kernel {list(kernel)} is larger than its padded input {list(size)}")
    return height, width
