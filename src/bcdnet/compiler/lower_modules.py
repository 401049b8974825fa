"""How each layer lowers.  torch_shape legend: (C, H, W) map, (C,) vector, (A, B) A pixels of B channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bcdnet.compiler.ir import Node, Value
from bcdnet.compiler.lower_functions import (
    adaptive_avg_pool2d,
    add,
    avg_pool2d,
    concat,
    linear,
    max_pool2d,
    mean,
    multiply,
    pair,
    prelu,
)
from bcdnet.compiler.lower_views import as_column, flatten
from bcdnet.compiler.lowering import Handler, Lowering, array
from bcdnet.errors import CompileError
from bcdnet.nn import (
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    ContextHead,
    ContextLinear,
    Duplicate,
    LongRangeShift,
    RPReLU,
    RSign,
    ShortRangeShift,
    Sign,
    SpatialMean,
    binarize_weight,
    sign,
)
from bcdnet.program.schema import Pair


def _conv2d(low: Lowering, name: str, layer: nn.Conv2d, x: Any) -> Value:
    if layer.padding_mode != "zeros" or pair(layer.dilation) != (1, 1):
        raise CompileError(f"{name}: Conv2d packs with zero padding and dilation 1 only")
    low.expect(x, name, 3)
    weight = np.ascontiguousarray(array(layer.weight).transpose(0, 2, 3, 1))
    low.fit(x, weight.shape[3] * layer.groups, name)
    source = x.node if x.node.kind == "image" else low.feature_map(x, name)
    bias = None if layer.bias is None else array(layer.bias)
    padding = _padding(layer.padding, weight, name)
    return _map_value(low.graph.conv2d(source, name, weight, bias, pair(layer.stride), padding, layer.groups))


def _padding(padding: Any, weight: npt.NDArray[np.float32], name: str) -> Pair:
    """Of a weight [O][kh][kw][I]."""
    if not isinstance(padding, str):
        return pair(padding)
    height, width = weight.shape[1:3] if padding == "same" else (1, 1)
    if height % 2 == 0 or width % 2 == 0:
        raise CompileError(f"{name}: padding 'same' with an even kernel pads one side more; give it as a number")
    return height // 2, width // 2


def _map_value(node: Node) -> Value:
    height, width, channels = node.shape
    return Value(node, (channels, height, width))


def _batch_norm(low: Lowering, name: str, layer: Any, x: Any) -> Value:
    """One fma per element with PyTorch's constants: mul = rsqrt(var + eps) * weight, add = bias - mean * mul.

    torch.rsqrt, and `add` rounded once, are what PyTorch's kernel computes, bit for bit.
    """
    low.expect(x, name, 3, 1)
    if layer.running_mean is None or layer.running_var is None:
        raise CompileError(f"{name}: keeps no running statistics, so its result depends on the batch")
    mean, variance = (stat.detach().cpu().float() for stat in (layer.running_mean, layer.running_var))
    mul = torch.rsqrt(variance + layer.eps)
    if layer.weight is not None:
        mul = mul * layer.weight.detach().cpu().float()
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().cpu().float()
    add = (bias.double() - mean.double() * mul.double()).float()
    low.fit(x, len(mul), name)
    return low.step("add", low.step("mul", x, name, constant=array(mul)), name, constant=array(add))


def _prelu_module(low: Lowering, name: str, layer: nn.PReLU, x: Any) -> Value:
    return prelu(low, name, x, layer.weight)


def _relu(low: Lowering, name: str, layer: nn.ReLU, x: Any) -> Value:
    return prelu(low, name, x, 0.0)


def _leaky_relu(low: Lowering, name: str, layer: nn.LeakyReLU, x: Any) -> Value:
    return prelu(low, name, x, layer.negative_slope)


def _rprelu(low: Lowering, name: str, layer: RPReLU, x: Any) -> Value:
    low.expect(x, name, 3)
    low.fit(x, len(layer.weight), name)
    attrs = {"bias_in": array(layer.bias_in), "slope": array(layer.weight), "bias_out": array(layer.bias_out)}
    return low.step("prelu", x, name, **attrs)


def _identity(low: Lowering, name: str, layer: nn.Module, x: Any) -> Any:
    return x


def _avg_pool2d(low: Lowering, name: str, layer: nn.AvgPool2d, x: Any) -> Value:
    return avg_pool2d(
        low, name, x, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad,
        layer.divisor_override,
    )  # fmt: skip


def _max_pool2d(low: Lowering, name: str, layer: nn.MaxPool2d, x: Any) -> Value:
    return max_pool2d(
        low, name, x, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        ceil_mode=layer.ceil_mode, return_indices=layer.return_indices,
    )  # fmt: skip


def _adaptive_avg_pool2d(low: Lowering, name: str, layer: nn.AdaptiveAvgPool2d, x: Any) -> Value:
    return adaptive_avg_pool2d(low, name, x, layer.output_size)


def _linear(low: Lowering, name: str, layer: nn.Linear, x: Any) -> Value:
    return linear(low, name, x, layer.weight, layer.bias)


def _context_head(low: Lowering, name: str, layer: ContextHead, context: Any, mean: Any = None) -> Value:
    bias = torch.full(layer.weight.shape[:1], layer.base) if layer.base else None
    out = linear(low, name, context, layer.weight, bias)
    if layer.diagonal is not None:
        means = mean if mean.torch_shape == out.torch_shape else concat(low, name, (mean, mean), 1)
        out = add(low, name, multiply(low, name, means, layer.diagonal), out)
    return as_column(low, name, out)


def _spatial_mean(low: Lowering, name: str, layer: SpatialMean, x: Any) -> Value:
    return mean(low, name, x, (2, 3))


def _flatten(low: Lowering, name: str, layer: nn.Flatten, x: Any) -> Value:
    return flatten(low, name, x, layer.start_dim, layer.end_dim)


def _check_estimator(layer: Sign | RSign, name: str) -> None:
    values = torch.tensor([-2, -1, -0.5, -1e-30, -0.0, 0, 1e-30, 0.5, 1, 2])
    with torch.no_grad():
        if not torch.equal(layer.estimator(values), sign(values)):
            raise CompileError(
                f"{name}: its estimator's forward is not sign(x) with sign(0) = 1, which alone can be packed"
            )


def _sign(low: Lowering, name: str, layer: Sign, x: Any) -> Value:
    _check_estimator(layer, name)
    low.expect(x, name, 1, 2, 3)
    return Value(low.graph.sign(low.real(x, name), name), x.torch_shape, signed=True)


def _rsign(low: Lowering, name: str, layer: RSign, x: Any, alpha: Any = None) -> Value:
    _check_estimator(layer, name)
    source = low.feature_map(x, name)
    low.fit(x, len(layer.bias), name)
    threshold = None
    if alpha is not None:
        low.expect(alpha, name, 3)
        if alpha.torch_shape != (x.torch_shape[0], 1, 1):
            raise CompileError(f"{name}: alpha must be [N, {x.torch_shape[0]}, 1, 1]")
        threshold = low.graph.as_vector(low.real(alpha, name), name)
    return Value(low.graph.sign(source, name, array(layer.bias), threshold), x.torch_shape, signed=True)


def _weight(layer: BinaryLayer, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """±1 weight [O, ...] and scale [O] of a one-bit layer."""
    if layer.weight_bits != 1:
        raise CompileError(
            f"{name}: weight_bits is {layer.weight_bits} and only one-bit weights pack: take the network "
            "that a step with weight_bits 1 left, or call set_weight_bits(model, 1) in Python"
        )
    with torch.no_grad():
        weight, scale = binarize_weight(layer.latent_weight)
    return array(weight), array(scale).reshape(-1)


def _binary_conv2d(low: Lowering, name: str, layer: BinaryConv2d, x: Any) -> Value:
    low.expect(x, name, 3)
    weight, scale = _weight(layer, name)
    weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    low.fit(x, weight.shape[3], name)
    stride, padding = pair(layer.stride), _padding(layer.padding, weight, name)
    shift = "none"
    if x.node.type == "shift" and (*weight.shape[1:3], *stride, *padding) == (1, 1, 1, 1, 0, 0):
        shift, x = x.node.attrs["shift"], Value(x.node.inputs[0], x.torch_shape, signed=True)
    return _map_value(low.graph.binary_conv2d(low.bits(x, name), name, [(weight, scale, shift)], stride, padding))


def _binary_linear(low: Lowering, name: str, layer: BinaryLinear, x: Any) -> Value:
    low.expect(x, name, 1, 2)
    weight, scale = _weight(layer, name)
    low.fit(x, weight.shape[1], name)
    branch = (weight[:, None, None, :], scale, "none")
    node = low.graph.binary_conv2d(low.bits(x, name), name, [branch], (1, 1), (0, 0))
    return Value(low.restore(node, x, name), (*x.torch_shape[:-1], weight.shape[0]))


def _shift(kind: str) -> Handler:
    def handler(low: Lowering, name: str, layer: nn.Module, x: Any) -> Value:
        low.expect(x, name, 3)
        if not x.signed:
            raise CompileError(
                f"{name}: shifts a real-valued map; only a binarised one can be shifted: put the sign first"
            )
        if x.torch_shape[0] % 4:
            raise CompileError(f"{name}: shifts quarters of {x.torch_shape[0]} channels, which 4 does not divide")
        source = low.bits(x, name)
        node = low.graph.insert(Node("shift", name, [source], "bits", source.shape, {"shift": kind}))
        return Value(node, x.torch_shape, signed=True)

    return handler


def _duplicate(low: Lowering, name: str, layer: Duplicate, x: Any) -> Value:
    return concat(low, name, (x, x), 1)


MODULES: dict[type[nn.Module], Handler] = {
    nn.Conv2d: _conv2d,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    nn.PReLU: _prelu_module,
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky_relu,
    nn.Identity: _identity,
    nn.Dropout: _identity,
    nn.Dropout2d: _identity,
    nn.AvgPool2d: _avg_pool2d,
    nn.MaxPool2d: _max_pool2d,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    nn.Linear: _linear,
    ContextHead: _context_head,
    ContextLinear: _linear,
    SpatialMean: _spatial_mean,
    nn.Flatten: _flatten,
    Sign: _sign,
    RSign: _rsign,
    RPReLU: _rprelu,
    BinaryConv2d: _binary_conv2d,
    BinaryLinear: _binary_linear,
    ShortRangeShift: _shift("short"),
    LongRangeShift: _shift("long"),
    Duplicate: _duplicate,
}
