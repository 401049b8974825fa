"""What the lowering of a layer or a function needs: the graph under construction and checks on traced values.

A traced tensor is a `Value`; a parameter used directly is a torch.Tensor. Messages start with the module path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bcdnet.compiler.ir import Graph, Node, Value
from bcdnet.errors import CompileError

# (lowering, name, positional arguments, keyword arguments) -> a Value or a constant.
Handler = Callable[..., Any]


class Batch:
    """The batch size, of which a program knows only that it stays the first axis; no number, so that none is packed."""

    def __repr__(self) -> str:
        return "the batch size"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch)


def array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """A copy of a parameter or buffer as contiguous float32: what becomes of the model, the program stays."""
    return np.array(tensor.detach().to("cpu", torch.float32).numpy(), order="C")


class Lowering:
    """The graph under construction, and the steps that many handlers share."""

    def __init__(self, input_size: tuple[int, int, int]) -> None:
        self.graph = Graph(*input_size)

    def feature_map(self, value: Any, name: str) -> Node:
        """The map behind a [N, C, H, W] value; bits are unpacked to ±1."""
        self.expect(value, name, 3)
        return self.real(value, name)

    def real(self, value: Value, name: str) -> Node:
        """A value as float32: an image, map or vector as it is, bits unpacked."""
        if value.node.kind != "bits":
            return value.node
        return self.graph.as_map(self.bits(value, name), name)

    def bits(self, value: Value, name: str) -> Node:
        """The packed bits of a ±1 value; CompileError where it is not one, or is shifted."""
        if not value.signed:
            raise CompileError(f"{name}: its input is not ±1; put Sign or RSign before a binary layer")
        if value.node.kind != "bits":
            return self.graph.sign(value.node, name)
        if value.node.type == "shift":
            raise CompileError(
                f"{value.node.name}: only a 1x1 binary convolution of stride 1, without padding, can follow a shift"
            )
        return value.node

    def expect(self, value: Any, name: str, *ranks: int) -> None:
        """CompileError unless `value` is a tensor of one of these ranks, the batch axis not counted."""
        if not isinstance(value, Value):
            raise CompileError(f"{name}: expected a tensor computed from the image, got {type(value).__name__}")
        if len(value.torch_shape) not in ranks:
            raise CompileError(f"{name}: a tensor of shape {['N', *value.torch_shape]} cannot be packed here")

    def fit(self, value: Value, channels: int, name: str) -> None:
        """CompileError unless `value` has the channels, or of a vector the numbers, that a layer is made for."""
        found = value.torch_shape[-1 if len(value.torch_shape) == 2 else 0]
        if found != channels:
            raise CompileError(
                f"{name}: is made for {channels} channels, but its input has {found}; "
                f"is input_size={self.graph.image.shape} that of the images?"
            )

    def step(self, kind: Any, value: Value, name: str, *more: Node, **attrs: Any) -> Value:
        """An elementwise step whose constants run over the channels of a map, or over a vector."""
        node = self.graph.step(kind, self.real(value, name), name, *more, **attrs)
        return Value(self.restore(node, value, name), value.torch_shape)

    def restore(self, node: Node, like: Value, name: str) -> Node:
        """A map computed from a vector as a vector again."""
        return self.graph.as_vector(node, name) if len(like.torch_shape) == 1 else node

    def reshape(self, value: Value, shape: tuple[int, ...], name: str) -> Value:
        """To another torch shape (without the batch axis), elements in torch's order."""
        if shape == value.torch_shape:
            return value
        if math.prod(shape) != math.prod(value.torch_shape) or not 1 <= len(shape) <= 3:
            raise CompileError(f"{name}: cannot view {['N', *value.torch_shape]} as {['N', *shape]}")
        graph, node = self.graph, self.real(value, name)
        if len(value.torch_shape) == 3:
            # A map is [H][W][C]; torch's order is [C][H][W]: one row per channel.
            channels, height, width = value.torch_shape
            node = graph.transpose(graph.as_map(node, name), (1, channels, height * width), name)
        if len(shape) == 1:
            node = graph.reshape(node, "vector", shape, name)
        elif len(shape) == 2:
            node = graph.reshape(node, "map", (1, *shape), name)
        else:
            channels, height, width = shape
            node = graph.reshape(node, "map", (1, channels, height * width), name)
            node = graph.transpose(node, (height, width, channels), name)
        return Value(node, shape, value.signed)

    def channel_constant(self, constant: Any, value: Value, name: str) -> npt.NDArray[np.float64]:
        """A number or a parameter that broadcasts over `value` as one number per channel [C]."""
        rank = len(value.torch_shape)
        channels = value.torch_shape[-1 if rank == 2 else 0]  # as the last axis of [N, A, B] lies
        if isinstance(constant, (int, float)):
            return np.full(channels, float(constant))
        if isinstance(constant, torch.Tensor) and rank in (1, 3):
            shape = (1,) * (rank + 1 - constant.dim()) + tuple(constant.shape)
            if (constant.numel() == 1 and constant.dim() <= rank + 1) or shape == (1, channels, *(1,) * (rank - 1)):
                return np.broadcast_to(array(constant).astype(np.float64).reshape(-1), (channels,)).copy()
        raise CompileError(f"{name}: only numbers and per-channel parameters can be combined with a tensor here")
