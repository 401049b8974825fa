"""The contextual dynamic embedding (BCDNet-B).  N images, I/O channels in/out, r reduction."""

from torch import Tensor, nn


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
        self.reduce = nn.Linear(in_channels, hidden, bias=False)
        self.to_alpha = nn.Linear(hidden, in_channels, bias=False) if alpha else None
        self.to_beta = nn.Linear(hidden, out_channels, bias=False) if beta else None
        for head in (self.to_alpha, self.to_beta):
            if head is not None:
                nn.init.zeros_(head.weight)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x: [N, I, H, W] -> alpha [N, I, 1, 1] and beta [N, O, 1, 1]; None for a half that was dropped."""
        context = self.reduce(x.mean(dim=(2, 3)))
        alpha = None if self.to_alpha is None else self.to_alpha(context)[:, :, None, None]
        beta = None if self.to_beta is None else self.to_beta(context)[:, :, None, None]
        return alpha, beta
