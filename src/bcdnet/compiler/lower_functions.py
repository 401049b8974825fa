"""How functions and tensor methods lower: sums, products with constants, activations, concatenation, pooling."""

from __future__ import annotations

import operator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from bcdnet.compiler.ir import Node, Value
from bcdnet.compiler.lower_views import (
    as_column,
    contiguous,
    equal,
    flatten,
    floor_divide,
    get_attribute,
    get_item,
    hold,
    size,
    transpose,
    view,
    view_as,
)
from bcdnet.compiler.lowering import Handler, Lowering, array
from bcdnet.errors import CompileError
from bcdnet.program.schema import Pair


def pair(value: Any) -> Pair:
    """Torch's int-or-pair as a pair."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def add(low: Lowering, name: str, a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Sum of two tensors, or of a tensor and a number or per-channel parameter."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        return a + b if alpha == 1 else torch.add(a, b, alpha=alpha)
    if alpha != 1:
        raise CompileError(f"{name}: add with alpha={alpha} cannot be packed")
    if not isinstance(a, Value):
        a, b = b, a
    if not isinstance(b, Value):
        return low.step("add", a, name, constant=low.channel_constant(b, a, name).astype(np.float32))
    low.expect(a, name, 1, 2, 3)
    if a.torch_shape == b.torch_shape:
        return _add_equal(low, name, a, b)
    return _per_image(low, name, "beta", a, b)


def _per_image(low: Lowering, name: str, kind: Literal["gain", "beta"], a: Value, b: Value) -> Value:
    """A step of a map with one number per channel and image."""
    if a.torch_shape[1:] == (1, 1):
        a, b = b, a
    if len(a.torch_shape) != 3 or b.torch_shape != (a.torch_shape[0], 1, 1):
        verb = "add" if kind == "beta" else "multiply"
        raise CompileError(f"{name}: cannot {verb} {['N', *a.torch_shape]} and {['N', *b.torch_shape]}")
    return low.step(kind, a, name, low.graph.as_vector(low.real(b, name), name))


def _add_equal(low: Lowering, name: str, a: Value, b: Value) -> Value:
    left, right = a.node, b.node
    if left.type == right.type == "linear" and left.inputs == right.inputs:
        # Two heads of one vector: (W1 + W2) x + (b1 + b2), summed in float64.
        biases = [node.attrs["bias"] for node in (left, right) if node.attrs["bias"] is not None]
        weight = left.attrs["weight"] + right.attrs["weight"]
        return Value(low.graph.linear(left.inputs[0], name, weight, sum(biases) if biases else None), a.torch_shape)
    if left.type == right.type == "binary_conv2d" and (merged := _merge_branches(left, right)):
        return Value(low.graph.insert(merged), a.torch_shape)
    other = low.graph.as_map(low.real(b, name), name)
    return low.step("shortcut", a, name, other)


def _merge_branches(left: Node, right: Node) -> Node | None:
    """Two binary convolutions of the same bits as one with the branches of both; None where they differ in shape."""
    if len(left.attrs["branches"]) == 1:
        left, right = (left, right) if len(right.attrs["branches"]) == 1 else (right, left)
    branches = left.attrs["branches"] + right.attrs["branches"]
    # The sum runs branch by branch, so that the second summand must be a single one.
    mergeable = len(right.attrs["branches"]) == 1 and len(branches) <= 3
    same = all(left.attrs[key] == right.attrs[key] for key in ("stride", "padding"))
    shapes = {weight.shape for weight, _, _ in branches}
    if not (mergeable and same and len(shapes) == 1 and left.inputs == right.inputs):
        return None
    return Node(left.type, left.name, left.inputs, left.kind, left.shape, left.attrs | {"branches": branches})


def subtract(low: Lowering, name: str, a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Difference of two tensors, or of a tensor and a number or per-channel parameter: a + (-b), exactly that."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        return a - b if alpha == 1 else torch.sub(a, b, alpha=alpha)
    if alpha != 1:
        raise CompileError(f"{name}: sub with alpha={alpha} cannot be packed")
    return add(low, name, a, multiply(low, name, b, -1) if isinstance(b, Value) else -b)


def multiply(low: Lowering, name: str, a: Any, b: Any) -> Any:
    """Product with a number, a per-channel parameter, or a map's with one number per channel and image."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        return a * b
    if not isinstance(a, Value):
        a, b = b, a
    if isinstance(b, Value):
        return _per_image(low, name, "gain", a, b)
    return _scale(low, name, a, low.channel_constant(b, a, name))


def divide(low: Lowering, name: str, a: Any, b: Any) -> Any:
    """Quotient by a number or per-channel parameter: a product with 1/b, which can differ in the last bit."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        return a / b
    if not isinstance(a, Value) or isinstance(b, Value):
        raise CompileError(f"{name}: division by a tensor cannot be packed")
    return _scale(low, name, a, 1 / low.channel_constant(b, a, name))


def _scale(low: Lowering, name: str, value: Value, factors: Any) -> Value:
    node = value.node
    if node.type == "linear" and (np.abs(np.frexp(factors)[0]) == 0.5).all():  # powers of two, which round nothing
        bias = node.attrs["bias"]
        weight = node.attrs["weight"] * factors[:, None]
        name = node.name.rpartition(".")[0] or node.name
        return Value(
            low.graph.linear(node.inputs[0], name, weight, None if bias is None else bias * factors), value.torch_shape
        )
    return low.step("mul", value, name, constant=factors.astype(np.float32))


def prelu(low: Lowering, name: str, x: Any, weight: Any) -> Value:
    """X > 0 ? x : x * weight, a number or per-channel parameter; ReLU with 0."""
    low.expect(x, name, 1, 3)
    if isinstance(weight, torch.Tensor) and weight.dim() == 1 and len(x.torch_shape) == 3:
        weight = weight.view(-1, 1, 1)
    slope = low.channel_constant(weight, x, name).astype(np.float32)
    return low.step("prelu", x, name, bias_in=None, slope=slope, bias_out=None)


def relu(low: Lowering, name: str, x: Any, inplace: bool = False) -> Value:
    """PReLU with slope 0."""
    return prelu(low, name, x, 0.0)


def dropout(low: Lowering, name: str, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Nothing, in eval mode."""
    if training:
        raise CompileError(f"{name}: dropout with training=True cannot be packed")
    return x


def concat(low: Lowering, name: str, tensors: Any, dim: int = 0) -> Value:
    """Along the channels."""
    for tensor in tensors:
        low.expect(tensor, name, 1, 3)
    rank = len(tensors[0].torch_shape)
    if dim not in (1, -rank) or any(tensor.torch_shape[1:] != tensors[0].torch_shape[1:] for tensor in tensors):
        raise CompileError(f"{name}: tensors of equal rank and size can be joined along the channels (dim 1) only")
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    as_kind = low.graph.as_map if rank == 3 else low.graph.as_vector
    nodes = [as_kind(low.real(tensor, name), name) for tensor in tensors]
    channels = sum(tensor.torch_shape[0] for tensor in tensors)
    signed = all(tensor.signed for tensor in tensors)
    return Value(low.graph.concat(nodes, name), (channels, *tensors[0].torch_shape[1:]), signed)


def mean(low: Lowering, name: str, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    """Over both positions: the global average pool."""
    low.expect(x, name, 3)
    dims = sorted(d % 4 for d in dim) if isinstance(dim, (tuple, list)) else dim
    if dims != [2, 3] or dtype not in (None, torch.float32, torch.float64):
        wrong = f"over dim={dim}" if dims != [2, 3] else f"in {dtype}"
        raise CompileError(f"{name}: mean {wrong} cannot be packed; only over height and width (2, 3), in float32")
    vector = low.graph.global_avg_pool(low.real(x, name), name)
    value = Value(vector, vector.shape)
    return as_column(low, name, value) if keepdim else value


def adaptive_avg_pool2d(low: Lowering, name: str, x: Any, output_size: Any) -> Value:
    """To 1 x 1, or to a size that divides the map's."""
    low.expect(x, name, 3)
    _, *size = x.torch_shape
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    target = [have if want is None else int(want) for have, want in zip(size, wanted, strict=True)]
    if target == [1, 1]:
        return mean(low, name, x, (2, 3), keepdim=True)
    if any(want < 1 or have % want for have, want in zip(size, target, strict=True)):
        raise CompileError(f"{name}: adaptive pooling from {size} to {target}, which does not divide it")
    kernel = (size[0] // target[0], size[1] // target[1])
    return x if kernel == (1, 1) else avg_pool2d(low, name, x, kernel)


def avg_pool2d(
    low: Lowering, name: str, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Value:  # fmt: skip
    """Average of each window; without padding and ceil_mode `count_include_pad` makes no difference."""
    if divisor_override is not None:
        raise CompileError(f"{name}: average pooling with divisor_override cannot be packed")
    kernel, padding = pair(kernel_size), pair(padding)
    step = kernel if stride is None or stride == [] else pair(stride)
    source = low.feature_map(x, name)
    node = low.graph.pool(
        "avg_pool", source, name, kernel, step, padding, bool(ceil_mode), count_include_pad=bool(count_include_pad)
    )
    return Value(node, (node.shape[2], *node.shape[:2]))


def max_pool2d(
    low: Lowering, name: str, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Value:  # fmt: skip
    """Maximum of each window."""
    if return_indices or pair(dilation) != (1, 1):
        raise CompileError(f"{name}: max pooling packs without indices and dilation only")
    kernel, padding = pair(kernel_size), pair(padding)
    step = kernel if stride is None or stride == [] else pair(stride)
    node = low.graph.pool("max_pool", low.feature_map(x, name), name, kernel, step, padding, bool(ceil_mode))
    return Value(node, (node.shape[2], *node.shape[:2]), x.signed)


def linear(low: Lowering, name: str, x: Any, weight: Any, bias: Any = None) -> Value:
    """F.linear with parameters, of a vector or of A pixels of B channels."""
    low.expect(x, name, 1, 2)
    if not isinstance(weight, torch.Tensor) or not (bias is None or isinstance(bias, torch.Tensor)):
        raise CompileError(f"{name}: only a linear layer with constant weights can be packed")
    matrix, offset = array(weight), None if bias is None else array(bias)
    low.fit(x, matrix.shape[1], name)
    source = low.real(x, name)
    if len(x.torch_shape) == 1:
        wide = None if offset is None else offset.astype(np.float64)
        return Value(low.graph.linear(source, name, matrix.astype(np.float64), wide), matrix.shape[:1])
    node = low.graph.conv2d(source, name, matrix[:, None, None, :], offset, (1, 1), (0, 0))
    return Value(node, (x.torch_shape[0], matrix.shape[0]))


def change_type(low: Lowering, name: str, x: Any) -> Any:
    """`.float()`, `.double()`: a program holds float32 and knows where to sum in float64."""
    return x


FUNCTIONS: dict[Any, Handler] = {
    operator.add: add,
    operator.iadd: add,
    torch.add: add,
    operator.sub: subtract,
    operator.isub: subtract,
    torch.sub: subtract,
    operator.mul: multiply,
    operator.imul: multiply,
    torch.mul: multiply,
    operator.truediv: divide,
    operator.itruediv: divide,
    torch.div: divide,
    operator.floordiv: floor_divide,
    operator.eq: equal,
    torch._assert: hold,
    operator.getitem: get_item,
    getattr: get_attribute,
    torch.cat: concat,
    torch.concat: concat,
    torch.flatten: flatten,
    torch.mean: mean,
    torch.transpose: transpose,
    torch.reshape: view,
    torch.relu: relu,
    F.relu: relu,
    F.linear: linear,
    F.prelu: prelu,
    torch.prelu: prelu,
    F.dropout: dropout,
    F.avg_pool2d: avg_pool2d,
    F.max_pool2d: max_pool2d,
    torch.max_pool2d: max_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
}
METHODS: dict[str, Handler] = {
    "add": add,
    "add_": add,
    "sub": subtract,
    "mul": multiply,
    "mul_": multiply,
    "div": divide,
    "mean": mean,
    "flatten": flatten,
    "view": view,
    "reshape": view,
    "view_as": view_as,
    "reshape_as": view_as,
    "transpose": transpose,
    "size": size,
    "contiguous": contiguous,
    "float": change_type,
    "double": change_type,
    "relu": relu,
    "relu_": relu,
}
