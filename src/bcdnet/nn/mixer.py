"""The token-mixing half of a binary MLP-Mixer.  N images, C channels, T = H x W tokens."""

import torch
from torch import Tensor, nn

from bcdnet.nn.activation import RPReLU, RSign
from bcdnet.nn.binary import BinaryLinear


class TokenMixingBlock(nn.Module):
    """RPReLU(BN(BiMLP over tokens(Sign(A))) + A): every token sees every other, and the map's size is fixed.

    The vanilla binary Mixer that the paper compares with: no local inductive bias. The channel-mixing half is
    `PointwiseBlock`.
    """

    def __init__(self, channels: int, tokens: int, estimator: str = "polynomial") -> None:
        super().__init__()
        self.binarize = RSign(channels, estimator)
        self.linear = BinaryLinear(tokens, tokens)
        self.bn = nn.BatchNorm2d(channels)
        self.act = RPReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] with H * W = T -> the same shape. AssertionError for another T."""
        rows, tokens = self.binarize(x).flatten(2), self.linear.in_features
        torch._assert(rows.shape[2] == tokens, f"made for {tokens} tokens, which images of another size do not have")
        out = self.linear(rows).view_as(x)
        result: Tensor = self.act(self.bn(out) + x)
        return result
