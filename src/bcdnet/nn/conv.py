"""The contextual binary convolution block.  N images, I/O channels in/out, H x W positions.

    A ──┬────────────► Sign(A - alpha) ──► binary conv ──► (* gain + beta) ──► BN ──► (+ shortcut) ──► RPReLU
        └─► embedding ──► alpha, beta, gain

Without an embedding it is ReActNet's block; with `Sign` and no RPReLU, Bi-Real Net's.
"""

import torch
from torch import Tensor, nn

from bcdnet.nn.activation import RPReLU, RSign
from bcdnet.nn.binary import BinaryConv2d
from bcdnet.nn.embedding import ContextualEmbedding


class Duplicate(nn.Module):
    """[N, C, H, W] -> [N, 2C, H, W]: the shortcut where channels double, one copy for each half of the outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x), dim=1)


def make_shortcut(in_channels: int, out_channels: int, stride: int, projection: bool = False) -> nn.Module:
    """The real-valued way around a binary convolution.

    Stride 2 averages 2 x 2 windows (at an odd border the pixels there are); doubled channels are duplicated, or, with
    `projection` (ResNet), mapped by a real-valued 1 x 1 convolution and BN. ValueError where no shortcut has that
    shape.
    """
    if stride not in (1, 2):
        raise ValueError(f"a shortcut has stride 1 or 2, not {stride}")
    layers: list[nn.Module] = []
    if stride == 2:
        layers.append(nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False))
    if projection:
        layers += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
    elif out_channels == 2 * in_channels:
        layers.append(Duplicate())
    elif out_channels != in_channels:
        raise ValueError(
            f"no shortcut from {in_channels} to {out_channels} channels: keep them, double them or project"
        )
    if not layers:
        return nn.Identity()
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class ContextualConvBlock(nn.Module):
    """act(bn(conv(binarize(x - alpha)) * gain + beta) + shortcut(x)), the unit of all the convolutional networks.

    Where channels double, the published networks run two 1 x 1 convolutions on one input and concatenate them; here
    that is one convolution with 2C outputs, which is the same network. `binarize`, `conv` and `act` replace the
    defaults (RSign, BinaryConv2d, RPReLU) in the networks that differ there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        embedding: ContextualEmbedding | None = None,
        projection: bool = False,
        estimator: str = "polynomial",
        binarize: nn.Module | None = None,
        conv: nn.Module | None = None,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.binarize = binarize or RSign(in_channels, estimator)
        self.embedding = embedding
        self.conv = conv or BinaryConv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, projection)
        self.act = act or RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, I, H, W] -> [N, O, H', W'], H' = ceil(H / stride)."""
        alpha, beta, gain = (None, None, None) if self.embedding is None else self.embedding(x)
        out = self.conv(self.binarize(x) if alpha is None else self.binarize(x, alpha))
        if gain is not None:
            out = out * gain
        if beta is not None:
            out = out + beta
        result: Tensor = self.act(self.bn(out) + self.shortcut(x))
        return result
