"""The one `sign` of the project, and the estimators that give it a gradient.

Every estimator has the same forward, `sign` with sign(0) = +1, and differs only in what it reports as d sign / dx.
An annealed estimator holds a 0-dim buffer `progress` in [0, 1], the share of training done; `set_progress` sets it.
`torch.func` (per-image gradients: `vmap(grad(...))`, Jacobians: `jacrev`) goes through all of them.
"""

from typing import Any

import torch
from torch import Tensor, nn


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, so that sign(0) = sign(-0.0) = +1 fits in one bit, and -1 elsewhere; shape and dtype of x.

    No gradient: that is what an estimator is for.
    """
    # Within x's dtype this is several times as fast on a CPU as torch.where with two scalars. The last operation is not
    # in place, nor has any an `out=`: torch.compile of torch 2.11 would lose the estimators' gradient (pytorch#180642).
    return x.detach().clone().ge_(0).mul_(2).sub(1)


class SignFunction(torch.autograd.Function):
    """sign(x) of the first input; a subclass adds the gradient, from all inputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *_: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)


class _Polynomial(SignFunction):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        # 2 - 2|x|. The product is not in place: of a Jacobian's many gradients at once, x is the same for all.
        return x.abs().mul_(-2).add_(2).clamp_min_(0) * grad


class _ClippedIdentity(SignFunction):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0].abs() <= 1)  # a bool per element is all that the gradient needs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        inside: Tensor = ctx.saved_tensors[0]
        return grad * inside


class _Tanh(SignFunction):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, t = ctx.saved_tensors
        k = (1 / t).clamp_min(1)
        return grad * (k * t * (1 - torch.tanh(t * x).square())).to(grad.dtype), None


RESTE_LIMIT = 1.5  # beyond this |x| the gradient is 0
RESTE_FLAT = 0.1  # below this |x| the gradient, which would grow without bound, is the chord's


class _ReSTE(SignFunction):  # whose constants are outside of it, where torch.compile can read them
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, o = ctx.saved_tensors
        size = x.abs()
        chord = RESTE_FLAT ** (1 / o - 1)
        slope = torch.where(size < RESTE_FLAT, chord, size.clamp_min(RESTE_FLAT) ** (1 / o - 1) / o)
        return grad * (slope * (size <= RESTE_LIMIT)).to(grad.dtype), None


class PolynomialEstimator(nn.Module):
    """Piecewise polynomial estimator, the default.

    Forward: sign(x). Gradient: 2 + 2x on [-1, 0), 2 - 2x on [0, 1), 0 elsewhere, that is max(0, 2 - 2|x|).
    Source: Liu et al., "Bi-Real Net", ECCV 2018, eq. 6; used by ReActNet and BCDNet.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape, floating -> the same shape and dtype, ±1."""
        out: Tensor = _Polynomial.apply(x)
        return out


class ClippedIdentityEstimator(nn.Module):
    """Straight-through estimator with clipping.

    Forward: sign(x). Gradient: 1 on |x| <= 1, 0 elsewhere.
    Source: Hubara et al., "Binarized Neural Networks", NeurIPS 2016, eq. 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape, floating -> the same shape and dtype, ±1."""
        out: Tensor = _ClippedIdentity.apply(x)
        return out


class AnnealedEstimator(nn.Module):
    """An estimator whose gradient sharpens while training goes on: `progress`, 0-dim, runs from 0 to 1."""

    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)


class TanhEstimator(AnnealedEstimator):
    """Annealed tanh (error decay estimator).

    Forward: sign(x). Gradient: k t (1 - tanh(t x)^2) with t = 10^(2 progress - 1), from 0.1 to 10, and k = max(1/t, 1).
    Source: Qin et al., "IR-Net: Forward and Backward Information Retention", CVPR 2020, eq. 11-13.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape, floating -> the same shape and dtype, ±1."""
        out: Tensor = _Tanh.apply(x, 10 ** (2 * self.progress - 1))
        return out


class ReSTEEstimator(AnnealedEstimator):
    """Rectified straight-through estimator: the gradient of the power function sign(x) |x|^(1/o).

    Forward: sign(x). Gradient: |x|^(1/o - 1) / o with o = 1 + 2 progress, from 1 to 3; the chord's slope 0.1^(1/o - 1)
    where |x| < 0.1; 0 where |x| > 1.5.
    Source: Wu et al., "Estimator Meets Equilibrium Perspective", ICCV 2023, eq. 9-11.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape, floating -> the same shape and dtype, ±1."""
        out: Tensor = _ReSTE.apply(x, 1 + 2 * self.progress)
        return out


ESTIMATORS: dict[str, type[nn.Module]] = {
    "polynomial": PolynomialEstimator,
    "clipped_identity": ClippedIdentityEstimator,
    "tanh": TanhEstimator,
    "reste": ReSTEEstimator,
}


def make_estimator(name: str) -> nn.Module:
    """The estimator of that name; ValueError naming the known ones otherwise."""
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{name}': choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]()


def set_progress(module: nn.Module, value: float) -> None:
    """Set the share of training done on every annealed estimator inside `module`; ValueError outside of [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"progress is a share in [0, 1], not {value}")
    for child in module.modules():
        if isinstance(child, AnnealedEstimator):
            child.progress.fill_(value)
