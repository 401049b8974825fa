"""Binary networks as published code composes them from plain PyTorch operations: what training.py compares with.

Each class has the parameters of ours under the same names, so that a state dict fits both, and computes the same values
and gradients. N images, I/O channels in/out, H x W positions.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet import nn as bnn


class NaiveRSign(nn.Module):
    """sign(x + bias - alpha), its gradient that of a piecewise polynomial built from float masks."""

    def __init__(self, ours: bnn.RSign) -> None:
        super().__init__()
        self.bias = nn.Parameter(ours.bias.detach().clone())

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:
        x = x + self.bias.view(1, -1, 1, 1).expand_as(x)
        if alpha is not None:
            x = x - alpha.expand_as(x)
        below, negative, inside = ((x < bound).to(x.dtype) for bound in (-1, 0, 1))
        smooth = -1 * below + (x * x + 2 * x) * (1 - below)
        smooth = smooth * negative + (-x * x + 2 * x) * (1 - negative)
        smooth = smooth * inside + 1 * (1 - inside)
        return torch.sign(x).detach() - smooth.detach() + smooth


class NaiveBinaryConv2d(nn.Module):
    """Convolution with sign(W) times its mean size, taken axis by axis; clipped identity on the weight."""

    def __init__(self, ours: bnn.BinaryConv2d) -> None:
        super().__init__()
        self.latent_weight = nn.Parameter(ours.latent_weight.detach().clone())
        self.stride, self.padding = ours.stride, ours.padding

    def forward(self, x: Tensor) -> Tensor:
        weight = self.latent_weight
        scale = weight.abs().mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True).detach()
        clipped = weight.clamp(-1, 1)
        binary = (scale * torch.sign(weight)).detach() - clipped.detach() + clipped
        return F.conv2d(x, binary, None, self.stride, self.padding)


class NaiveRPReLU(nn.Module):
    """Two learnable biases around a PReLU."""

    def __init__(self, ours: bnn.RPReLU) -> None:
        super().__init__()
        for name, parameter in ours.named_parameters():
            setattr(self, name, nn.Parameter(parameter.detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.bias_in.view(1, -1, 1, 1).expand_as(x)
        x = F.prelu(x, self.weight)
        return x + self.bias_out.view(1, -1, 1, 1).expand_as(x)


NAIVE = {bnn.RSign: NaiveRSign, bnn.BinaryConv2d: NaiveBinaryConv2d, bnn.RPReLU: NaiveRPReLU}


def naive(model: nn.Module) -> nn.Module:
    """A copy of one of our networks, with its weights, in which these layers are the plain ones."""
    model = copy.deepcopy(model)
    for path, module in list(model.named_modules()):
        if type(module) in NAIVE:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, NAIVE[type(module)](module))
    return model
