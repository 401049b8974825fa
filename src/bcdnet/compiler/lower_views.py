"""How views lower, and the numbers that Python code takes from shapes.

torch's memory order is [N][C][H][W], a map's [N][H][W][C]: a view of a map is a transposition, unless the map has one
pixel or one channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bcdnet.compiler.ir import Value
from bcdnet.compiler.lowering import Batch, Lowering
from bcdnet.errors import CompileError


def as_column(low: Lowering, name: str, value: Value) -> Value:
    """[N, C] -> [N, C, 1, 1]."""
    return low.reshape(value, (value.torch_shape[0], 1, 1), name)


def flatten(low: Lowering, name: str, x: Any, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Join neighbouring axes after the batch."""
    low.expect(x, name, 1, 2, 3)
    rank = len(x.torch_shape) + 1
    start, end = start_dim % rank, end_dim % rank
    if start == 0 or end < start:
        raise CompileError(f"{name}: flatten must leave the batch axis alone (start_dim >= 1)")
    shape = x.torch_shape
    joined = int(np.prod(shape[start - 1 : end]))
    return low.reshape(x, (*shape[: start - 1], joined, *shape[end:]), name)


def view(low: Lowering, name: str, x: Any, *shape: Any) -> Any:
    """View / reshape; the batch stays the first axis. Of a parameter: anything."""
    if isinstance(x, torch.Tensor):
        return x.reshape(*shape)
    low.expect(x, name, 1, 2, 3)
    sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else list(shape)
    rest = [int(size) for size in sizes[1:]]
    total = int(np.prod(x.torch_shape))
    if rest.count(-1) == 1:
        known = int(np.prod([size for size in rest if size != -1]))
        rest = [total // known if size == -1 and known else size for size in rest]
    if not sizes or not (isinstance(sizes[0], Batch) or sizes[0] == -1) or int(np.prod(rest)) != total:
        raise CompileError(f"{name}: a view must keep the batch as its first axis: x.view(x.size(0), ...)")
    return low.reshape(x, tuple(rest), name)


def view_as(low: Lowering, name: str, x: Any, other: Any) -> Value:
    """To the shape of another tensor."""
    low.expect(x, name, 1, 2, 3)
    low.expect(other, name, 1, 2, 3)
    return low.reshape(x, other.torch_shape, name)


def transpose(low: Lowering, name: str, x: Any, dim0: int, dim1: int) -> Value:
    """[N, A, B] -> [N, B, A]."""
    low.expect(x, name, 2)
    if {dim0 % 3, dim1 % 3} != {1, 2}:
        raise CompileError(f"{name}: only the two axes after the batch can be swapped")
    rows, columns = x.torch_shape
    node = low.graph.transpose(low.graph.as_map(low.real(x, name), name), (1, columns, rows), name)
    return Value(node, (columns, rows), x.signed)


def size(low: Lowering, name: str, x: Any, dim: int | None = None) -> Any:
    """The whole shape, or one size; the batch size is a `Batch`."""
    low.expect(x, name, 1, 2, 3)
    whole = (Batch(), *x.torch_shape)
    return whole if dim is None else whole[dim]


def get_attribute(low: Lowering, name: str, x: Any, attribute: str) -> Any:
    """`x.shape`."""
    if attribute != "shape":
        raise CompileError(f"{name}: the attribute '{attribute}' of a tensor cannot be packed")
    return size(low, name, x)


def get_item(low: Lowering, name: str, x: Any, index: Any) -> Any:
    """`x[:, :, None, None]` of a vector; an element of a shape or of a tuple of results."""
    if not isinstance(x, Value):
        return x[index]
    whole = slice(None)
    if (
        len(x.torch_shape) == 1
        and isinstance(index, tuple)
        and index in ((whole, whole, None, None), (..., None, None))
    ):
        return as_column(low, name, x)
    raise CompileError(f"{name}: indexing a tensor cannot be packed")


def floor_divide(low: Lowering, name: str, a: Any, b: Any) -> Any:
    """Of numbers taken from shapes."""
    if isinstance(a, Value) or isinstance(b, Value):
        raise CompileError(f"{name}: floor division of tensors cannot be packed")
    return a // b


def equal(low: Lowering, name: str, a: Any, b: Any) -> bool:
    """Of shapes and numbers taken from them."""
    if isinstance(a, (Value, torch.Tensor)) or isinstance(b, (Value, torch.Tensor)):
        raise CompileError(f"{name}: comparing tensors cannot be packed")
    return bool(a == b)


def hold(low: Lowering, name: str, condition: Any, message: str) -> None:
    """`torch._assert`: what holds for images of the program's one size is asked here and never again."""
    if isinstance(condition, (Value, torch.Tensor)):
        raise CompileError(f"{name}: what depends on the pixels cannot be packed")
    if not condition:
        raise CompileError(f"{name}: {message}; is input_size={low.graph.image.shape} that of the images?")


def contiguous(low: Lowering, name: str, x: Any) -> Any:
    """Nothing: a program fixes its own memory order."""
    return x
