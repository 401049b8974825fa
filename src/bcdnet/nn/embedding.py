"""The contextual dynamic embedding (BCDNet-B).  N images, I/O channels in/out, r reduction."""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

torch.fx.wrap("_mean")  # one node each to torch.fx, which does not know the device
torch.fx.wrap("_linear")
torch.fx.wrap("_scaled_means")  # which looks at sizes


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


def _linear(x: Tensor, weight: Tensor, base: float, training: bool) -> Tensor:
    if _sums_in_float64(training, x):
        return (F.linear(x.double(), weight.double()) + base).to(x.dtype)
    out = F.linear(x, weight)
    return out + base if base else out  # no kernel on a GPU for what adds nothing


def _scaled_means(mean: Tensor, diagonal: Tensor) -> Tensor:
    if mean.shape[1] != len(diagonal):
        mean = torch.cat((mean, mean), dim=1)
    return mean * diagonal


class SpatialMean(nn.Module):
    """Global average pooling: [N, C, H, W] -> [N, C], the same whoever sums (see `_sums_in_float64`)."""

    def forward(self, x: Tensor) -> Tensor:
        return _mean(x, self.training)


class ContextLinear(nn.Linear):
    """A linear map without bias: [N, I] -> [N, O], the same whoever sums (see `_sums_in_float64`)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, 0.0, self.training)


class ContextHead(ContextLinear):
    """What an image's context says of each channel: `base` + W context + d * mean, where W and d start at zero.

    With `diagonal` each channel hears of its own mean over the image too, which the few numbers of the context do not
    tell apart: d has one number per output. Outputs are as many as the means, or twice as many, halves alike.
    """

    def __init__(self, hidden: int, out_channels: int, *, diagonal: bool = False, base: float = 0.0) -> None:
        super().__init__(hidden, out_channels)
        nn.init.zeros_(self.weight)
        self.diagonal = nn.Parameter(torch.zeros(out_channels)) if diagonal else None
        self.base = base

    def forward(self, context: Tensor, mean: Tensor | None = None) -> Tensor:
        """context: [N, I/r], mean: [N, I], which only a diagonal reads -> [N, O, 1, 1]."""
        out = _linear(context, self.weight, self.base, self.training)
        if self.diagonal is not None:
            assert mean is not None
            out = _scaled_means(mean, self.diagonal) + out
        return out[:, :, None, None]


class ContextualEmbedding(nn.Module):
    """One small vector per image, W1 GAP(A), from which come the thresholds alpha and the shift beta of the output.

    alpha = W2 W1 GAP(A) moves the zero of the sign per input channel, beta = W3 W1 GAP(A) is added to the convolution's
    result per output channel. Linear maps only, as in the paper's figure; r = 4 reproduces its operation count. W2
    and W3 start at zero, so that an untrained embedding leaves the block as it is. `alpha=False` or `beta=False`
    drops one half.

    Beyond the paper: `gain` adds a factor of the convolution's result per output channel, 1 + W4 W1 GAP(A), as a binary
    network's scale may depend on the image (Martinez et al., "Training Binary Neural Networks with Real-to-Binary
    Convolutions", ICLR 2020, there from a gated MLP), and `diagonal` adds to all of them d * GAP(A), see `ContextHead`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        reduction: int = 4,
        *,
        alpha: bool = True,
        beta: bool = True,
        gain: bool = False,
        diagonal: bool = False,
    ) -> None:
        super().__init__()
        hidden = max(1, in_channels // reduction)
        self.pool = SpatialMean()
        self.reduce = ContextLinear(in_channels, hidden)
        self.to_alpha = ContextHead(hidden, in_channels, diagonal=diagonal) if alpha else None
        self.to_beta = ContextHead(hidden, out_channels, diagonal=diagonal) if beta else None
        self.to_gain = ContextHead(hidden, out_channels, diagonal=diagonal, base=1.0) if gain else None

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """x: [N, I, H, W] -> alpha [N, I, 1, 1], beta and gain [N, O, 1, 1]; None for one that was left out."""
        mean = self.pool(x)
        context = self.reduce(mean)
        alpha = None if self.to_alpha is None else self.to_alpha(context, mean)
        beta = None if self.to_beta is None else self.to_beta(context, mean)
        gain = None if self.to_gain is None else self.to_gain(context, mean)
        return alpha, beta, gain
