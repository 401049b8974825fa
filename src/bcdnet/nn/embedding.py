"""The contextual dynamic embedding (BCDNet-B).  N images, I/O channels in/out, r reduction."""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

torch.fx.wrap("_mean")  # one node each to torch.fx, which does not know the device
torch.fx.wrap("_linear")


def _sums_in_float64(training: bool, x: Tensor) -> bool:
    """Whether sums are taken in float64: in eval mode on a CPU.

    A threshold that differs in its last bit flips activations. Summed in float64 and rounded once, it hardly depends on
    the order of the sum any more, so that every implementation finds the same one. Training does not need that.
    """
    return not training and x.device.type == "cpu"


def _mean(x: Tensor, training: bool) -> Tensor:
    if _sums_in_float64(training, x):
        return x.mean(dim=(2, 3), dtype=torch.float64).to(x.dtype)
    return x.mean(dim=(2, 3))


def _linear(x: Tensor, weight: Tensor, training: bool) -> Tensor:
    if _sums_in_float64(training, x):
        return F.linear(x.double(), weight.double()).to(x.dtype)
    return F.linear(x, weight)


class SpatialMean(nn.Module):
    """Global average pooling: [N, C, H, W] -> [N, C], the same whoever sums (see `_sums_in_float64`)."""

    def forward(self, x: Tensor) -> Tensor:
        return _mean(x, self.training)


class ContextLinear(nn.Linear):
    """A linear map without bias: [N, I] -> [N, O], the same whoever sums (see `_sums_in_float64`)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, self.training)


class ContextualEmbedding(nn.Module):
    """One small vector per image, W1 GAP(A), from which come the thresholds alpha and the shift beta of the output.

    alpha = W2 W1 GAP(A) moves the zero of the sign per input channel, beta = W3 W1 GAP(A) is added to the convolution's
    result per output channel. Linear maps only, as in the paper's figure; r = 4 reproduces its operation count. W2
    and W3 start at zero, so that an untrained embedding leaves the block as it is. `alpha=False` or `beta=False`
    drops one half.
    """

    def __init__(
        self, in_channels: int, out_channels: int, reduction: int = 4, *, alpha: bool = True, beta: bool = True
    ) -> None:
        super().__init__()
        hidden = max(1, in_channels // reduction)
        self.pool = SpatialMean()
        self.reduce = ContextLinear(in_channels, hidden)
        self.to_alpha = ContextLinear(hidden, in_channels) if alpha else None
        self.to_beta = ContextLinear(hidden, out_channels) if beta else None
        for head in (self.to_alpha, self.to_beta):
            if head is not None:
                nn.init.zeros_(head.weight)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x: [N, I, H, W] -> alpha [N, I, 1, 1] and beta [N, O, 1, 1]; None for a half that was dropped."""
        context = self.reduce(self.pool(x))
        alpha = None if self.to_alpha is None else self.to_alpha(context)[:, :, None, None]
        beta = None if self.to_beta is None else self.to_beta(context)[:, :, None, None]
        return alpha, beta
