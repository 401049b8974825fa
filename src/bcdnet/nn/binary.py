"""Binary convolution and linear layer: weights of one bit and a scale.  N images, I/O channels in/out, k taps a side.

The forward pass is exact: the convolution runs on ±1 values, so its result is an integer that float32 holds exactly,
and one multiply by the scale comes after it. Packed integer arithmetic therefore gives the same bits.
"""

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet.nn.sign import SignFunction


class _BinaryWeight(SignFunction):
    """sign(latent), whose incoming gradient was multiplied by `scale` on its way and is divided by it here.

    The published networks apply the clipped identity to the *scaled* weight, so the gradient reaches the latent weight
    without the factor s. Scaling the result instead of the weight brings that factor in; the division takes it out.
    """

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        latent, scale = ctx.saved_tensors
        # A row of zeros has scale 0 and gradient 0; the bound keeps 0/0 from becoming NaN.
        grad = grad.to(latent.dtype) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
        return grad * (latent.abs() <= 1), None


torch.fx.wrap("binarize_weight")  # one node to torch.fx, which cannot look into it


def binarize_weight(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Split a latent weight into bits and scale: W ~ sign(W) * mean|W|, one scale per output (XNOR-Net, ECCV 2016).

    latent: [O, ...] -> (±1 of the same shape, scale [O, 1, ...] without gradient). Backward: the gradient of the scaled
    weight passes where |W| <= 1.
    """
    scale = latent.detach().abs().mean(dim=tuple(range(1, latent.dim())), keepdim=True)
    return _BinaryWeight.apply(latent, scale), scale


class BinaryLayer(nn.Module):
    """What the binary layers share: a `latent_weight` and the switch `weight_bits` (1: binary, 32: real-valued)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.latent_weight = nn.Parameter(torch.empty(shape))
        self.weight_bits = 1
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal (fan in) for inputs of ±1: the outputs of step 1 start with unit variance."""
        nn.init.kaiming_normal_(self.latent_weight, nonlinearity="linear")


class BinaryConv2d(BinaryLayer):
    """Convolution with one-bit weights: conv(x, sign(W)) * mean|W| per output channel; conv(x, W) at `weight_bits` 32.

    The input is the ±1 map that `RSign` makes; its zero padding is a third value, so a border output sums over fewer
    taps.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int | str = 0
    ) -> None:
        super().__init__(out_channels, in_channels, kernel_size, kernel_size)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, I, H, W] of ±1 -> [N, O, H', W']."""
        if self.weight_bits == 32:
            return F.conv2d(x, self.latent_weight, None, self.stride, self.padding)
        weight, scale = binarize_weight(self.latent_weight)
        out = F.conv2d(x, weight, None, self.stride, self.padding)
        # Under autocast `out` is bfloat16 and the scale float32: multiply exactly, round once.
        return (out * scale.view(1, -1, 1, 1)).to(out.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, weight_bits={self.weight_bits}"
        )


class BinaryLinear(BinaryLayer):
    """Linear layer with one-bit weights on the last axis: x sign(W)^T * mean|W|; x W^T at `weight_bits` 32."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., I] of ±1 -> [..., O]."""
        if self.weight_bits == 32:
            return F.linear(x, self.latent_weight)
        weight, scale = binarize_weight(self.latent_weight)
        out = F.linear(x, weight)
        return (out * scale.view(-1)).to(out.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, weight_bits={self.weight_bits}"


def set_weight_bits(module: nn.Module, bits: int) -> None:
    """Switch every binary layer inside `module` to real-valued weights (`bits` 32, step 1) or binary ones (1, step 2).

    Raises ValueError for another number.
    """
    if bits not in (1, 32):
        raise ValueError(f"weight_bits is 1 or 32, not {bits}")
    for child in module.modules():
        if isinstance(child, BinaryLayer):
            child.weight_bits = bits


def undecayed(module: nn.Module) -> set[str]:
    """The parameters that weight decay must leave alone: thresholds, PReLU slopes, all that is no matrix or kernel, and
    latent weights once their signs count, which decay would only pull to where they flip.
    """
    small = {name for name, parameter in module.named_parameters() if parameter.dim() <= 1}
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, BinaryLayer))
    return small | {f"{name}.latent_weight" for name, layer in layers if layer.weight_bits == 1}
