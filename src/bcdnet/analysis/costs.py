"""What one layer costs, by its type: multiply-accumulates, elementwise operations, parameters, packed bytes.

The conventions, and how they compare with the published figures, are defined in docs/counting.md. In short: one
operation is one multiply-add, addition or comparison on one element, after everything that is constant over the
positions of a map has been folded: a binary convolution's scale and the embedding's gain and beta into the BatchNorm
that follows, alpha into the threshold of the sign, an RPReLU into one multiply-add whose coefficients the sign selects.

Shapes: N images (always 1 here), C channels, H x W positions.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch

from torch import Tensor, nn

from bcdnet.models import DualHead
from bcdnet.nn import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMLPBlock,
    ContextHead,
    ContextualConvBlock,
    RPReLU,
    RSign,
    Sign,
    SpatialMean,
    TokenMixingBlock,
)

BITS_PER_BYTE = 8
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """What one call of a layer costs, and which of its parameters a deployed network keeps."""

    macs: int = 0
    weight_bits: int = 32  # of the weights in `macs`
    elementwise: Mapping[str, int] = field(default_factory=dict)  # operations by kind
    params: tuple[nn.Parameter, ...] = ()
    binary_params: int = 0  # how many of the params' elements are stored in one bit
    packed_bytes: int = 0


def float_bytes(params: Iterable[nn.Parameter]) -> int:
    """Bytes of `params` in float32."""
    return FLOAT_BYTES * sum(p.numel() for p in params)


AnyBatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@singledispatch
def cost(module: nn.Module, x: Tensor, y: Tensor) -> Cost:
    """Cost of the call `y = module(x)` of a layer, children included; one image, tensors on the meta device.

    Dispatches on the module's type: `cost.register(MyLayer)` teaches the counter a new layer.
    """
    raise TypeError(f"{type(module).__name__} is not a known layer")


@singledispatch
def arithmetic(module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, int]:
    """Elementwise operations, by kind, that a block does between its children in the call `y = module(x)`."""
    raise TypeError(f"{type(module).__name__} is not a known block")


def is_layer(module: nn.Module) -> bool:
    """Whether `cost` knows the module's type: its children are then part of it."""
    return cost.dispatch(type(module)) is not cost.dispatch(object)


def is_block(module: nn.Module) -> bool:
    """Whether `arithmetic` knows the module's type: its children are then counted on their own."""
    return arithmetic.dispatch(type(module)) is not arithmetic.dispatch(object)


def _real(module: nn.Module, macs: int = 0, elementwise: Mapping[str, int] | None = None) -> Cost:
    """A layer whose every parameter is stored in float32."""
    params = tuple(module.parameters())
    return Cost(macs=macs, elementwise=elementwise or {}, params=params, packed_bytes=float_bytes(params))


@cost.register(nn.Conv1d)
@cost.register(nn.Conv2d)
@cost.register(nn.Conv3d)
def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, y: Tensor) -> Cost:
    # Taps that fall on the zero padding count like the others, as everywhere in the literature.
    return _real(module, macs=y.numel() * module.in_channels // module.groups * math.prod(module.kernel_size))


@cost.register
def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> Cost:
    return _real(module, macs=y.numel() * module.in_features)


@cost.register
def _context_head(module: ContextHead, x: Tensor, y: Tensor) -> Cost:
    return _real(module, macs=y.numel() * (module.in_features + (module.diagonal is not None)))


@cost.register
def _dual_head(module: DualHead, x: Tensor, y: Tensor) -> Cost:
    # Deployed, the mean of two linear layers is one linear layer.
    return _linear(module.fc, x, y)


@cost.register(BinaryConv2d)
@cost.register(BinaryLinear)
def _binary(module: BinaryConv2d | BinaryLinear, x: Tensor, y: Tensor) -> Cost:
    weight = module.latent_weight
    macs = y.numel() * weight[0].numel()
    if module.weight_bits != 1:
        return _real(module, macs=macs)
    packed = -(-weight.numel() // BITS_PER_BYTE) + FLOAT_BYTES * weight.shape[0]  # bits, and a scale per output
    return Cost(macs=macs, weight_bits=1, params=(weight,), binary_params=weight.numel(), packed_bytes=packed)


@cost.register(nn.BatchNorm1d)
@cost.register(nn.BatchNorm2d)
@cost.register(nn.BatchNorm3d)
@cost.register(nn.SyncBatchNorm)
def _batch_norm(module: AnyBatchNorm, x: Tensor, y: Tensor) -> Cost:
    # Deployed, four vectors are two: a factor and an offset.
    folded = 2 * FLOAT_BYTES * module.num_features
    elementwise = {"batch_norm": y.numel(), **_own_activation(module, y)}
    return Cost(elementwise=elementwise, params=tuple(module.parameters()), packed_bytes=folded)


@cost.register(nn.LayerNorm)
@cost.register(nn.GroupNorm)
@cost.register(nn.InstanceNorm1d)
@cost.register(nn.InstanceNorm2d)
@cost.register(nn.InstanceNorm3d)
def _per_image_norm(module: nn.Module, x: Tensor, y: Tensor) -> Cost:
    # Mean, variance, normalisation, factor and offset: one multiply-add each.
    return _real(module, elementwise={"norm": 4 * y.numel(), **_own_activation(module, y)})


def _own_activation(module: nn.Module, y: Tensor) -> Mapping[str, int]:
    # timm's norms with an activation in them (BatchNormAct2d and the like) are subclasses of torch's without.
    act = getattr(module, "act", None)
    return {"activation": y.numel()} if isinstance(act, nn.Module) and not isinstance(act, nn.Identity) else {}


@cost.register(Sign)
@cost.register(RSign)
def _sign(module: Sign | RSign, x: Tensor, y: Tensor) -> Cost:
    # One comparison with a threshold, wherever that came from.
    return _real(module, elementwise={"sign": y.numel()})


@cost.register
def _rprelu(module: RPReLU, x: Tensor, y: Tensor) -> Cost:
    return _real(module, elementwise={"rprelu": y.numel()})


@cost.register(nn.PReLU)
@cost.register(nn.ReLU)
@cost.register(nn.ReLU6)
@cost.register(nn.LeakyReLU)
@cost.register(nn.Hardtanh)
@cost.register(nn.Hardswish)
@cost.register(nn.Hardsigmoid)
@cost.register(nn.Sigmoid)
@cost.register(nn.Tanh)
@cost.register(nn.SiLU)
@cost.register(nn.GELU)
@cost.register(nn.ELU)
@cost.register(nn.SELU)
@cost.register(nn.CELU)
@cost.register(nn.Mish)
@cost.register(nn.Softplus)
@cost.register(nn.Softmax)
def _activation(module: nn.Module, x: Tensor, y: Tensor) -> Cost:
    return _real(module, elementwise={"activation": y.numel()})


@cost.register(nn.AvgPool2d)
@cost.register(nn.MaxPool2d)
def _window_pool(module: nn.AvgPool2d | nn.MaxPool2d, x: Tensor, y: Tensor) -> Cost:
    return Cost(elementwise={"pooling": y.numel() * window(module.kernel_size)})


@cost.register(nn.AdaptiveAvgPool1d)
@cost.register(nn.AdaptiveAvgPool2d)
@cost.register(nn.AdaptiveMaxPool2d)
@cost.register(SpatialMean)
def _global_pool(module: nn.Module, x: Tensor, y: Tensor) -> Cost:
    return Cost(elementwise={"pooling": x.numel()})


@arithmetic.register(ContextualConvBlock)
@arithmetic.register(TokenMixingBlock)
def _residual_block(module: ContextualConvBlock | TokenMixingBlock, x: Tensor, y: Tensor) -> Mapping[str, int]:
    return {"shortcut": y.numel()}


@arithmetic.register
def _mlp_block(module: BinaryMLPBlock, x: Tensor, y: Tensor) -> Mapping[str, int]:
    return {"branch_sum": (len(module.convs) - 1) * y.numel(), "shortcut": y.numel()}


def window(kernel_size: int | tuple[int, ...]) -> int:
    """Number of positions a 2-d pooling window covers."""
    return kernel_size**2 if isinstance(kernel_size, int) else math.prod(kernel_size)
