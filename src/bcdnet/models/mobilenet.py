"""The MobileNet-V1 backbone: ReActNet-A/B/C, BCDNet-A/B and the trade-offs between them, and the real-valued twin.

A block is a binary 3 x 3 convolution, which halves the map where its stride is 2, then a binary 1 x 1 convolution,
which doubles the channels where they change. The MLP stage follows at the last block's width: groups of three
long-short range blocks and one pointwise block.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import nn

from bcdnet.errors import RecipeError
from bcdnet.models.limits import MAX_DEPTH, MAX_SIZE, check_branches, check_range
from bcdnet.models.network import Embedding, Network, NetworkConfig, make_embedding, scale_width
from bcdnet.nn import BinaryMLPBlock, ContextualConvBlock, PointwiseBlock


@dataclass(frozen=True)
class MobileNetConfig(NetworkConfig):
    """One network of the family.

    `blocks`: (output channels, stride) of each convolution block. `real_groups`: 0, or the groups of the real-valued
    1 x 1 convolutions of the channel-doubling blocks (ReActNet-C: 1, ReActNet-B: 4). `kind`: "binary", or "separable"
    for MobileNet-V1 itself (depthwise 3 x 3, no shortcut).
    """

    stem_width: int = 32
    stem_stride: int = 2
    blocks: tuple[tuple[int, int], ...] = ()
    kind: Literal["binary", "separable"] = "binary"
    real_groups: int = 0
    embedding: Embedding = "none"
    reduction: int = 4
    mlp_groups: int = 0
    mlp_branches: tuple[str, ...] = ("none", "short", "long")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks:
            raise RecipeError("blocks is empty: give (channels, stride) for each convolution block")
        check_range(0, MAX_DEPTH, blocks=[len(self.blocks)], mlp_groups=[self.mlp_groups])
        check_branches(self.mlp_branches)
        check_range(0, MAX_DEPTH, mlp_branches=[3 * self.mlp_groups * len(self.mlp_branches)])  # in all blocks
        check_range(0, MAX_SIZE, real_groups=[self.real_groups])
        check_range(1, MAX_SIZE, stem=[self.stem_width, self.stem_stride], reduction=[self.reduction])
        check_range(1, MAX_SIZE, blocks=[size for block in self.blocks for size in block])
        widths = [self.stem_width, *(channels for channels, _ in self.blocks)]
        if self.kind == "binary" and any(after not in (before, 2 * before) for before, after in pairwise(widths)):
            raise RecipeError(f"a binary block keeps or doubles its channels, unlike {widths}")
        if self.kind == "separable" and (self.embedding != "none" or self.mlp_groups or self.real_groups):
            raise RecipeError("embedding, mlp_blocks and real_groups belong to kind 'binary', not 'separable'")


def mobilenet_config(
    *,
    width: float = 1.0,
    mlp_blocks: int = 0,
    small: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    distilled: bool = False,
    estimator: str = "polynomial",
    kind: Literal["binary", "separable"] = "binary",
    real_groups: int = 0,
    embedding: Embedding = "none",
    reduction: int = 4,
    mlp_branches: tuple[str, ...] = ("none", "short", "long"),
) -> MobileNetConfig:
    """The paper's networks at equal cost: `mlp_blocks` = 0, 3, ..., 15 gives 14/0, 13/3, 12/6, 11/9, 10/12, 9/15.

    Each group of three MLP blocks (and its pointwise block) costs what the last 1024-channel or a 512-channel
    convolution block does, ten 1 x 1 convolutions, and replaces one from the deep end. `small`: a stem without
    downsampling.
    """
    if mlp_blocks not in (0, 3, 6, 9, 12, 15):
        raise RecipeError(f"mlp_blocks comes in groups of three, from 0 to 15, not {mlp_blocks}")
    groups = mlp_blocks // 3
    stem = scale_width(32, width)
    deepest = 2 if groups == 0 else 1
    middle = 6 if groups == 0 else 7 - groups
    multiples = [2, 4, 4, 8, 8] + [16] * middle + [32] * deepest
    # Stride 2 where channels change, except at the first block.
    strides = [1] + [2 if after != before else 1 for before, after in pairwise(multiples)]
    return MobileNetConfig(
        num_classes=num_classes,
        in_chans=in_chans,
        distilled=distilled,
        estimator=estimator,
        stem_width=stem,
        stem_stride=1 if small else 2,
        blocks=tuple((stem * multiple, stride) for multiple, stride in zip(multiples, strides, strict=True)),
        kind=kind,
        real_groups=real_groups,
        embedding=embedding,
        reduction=reduction,
        mlp_groups=groups,
        mlp_branches=tuple(mlp_branches),
    )


def mobilenet_settings(config: MobileNetConfig) -> dict[str, Any]:
    """The inverse of `mobilenet_config`, where a parameter is no field."""
    return {"width": config.stem_width / 32, "small": config.stem_stride == 1, "mlp_blocks": 3 * config.mlp_groups}


def _binary_block(config: MobileNetConfig, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    spatial = ContextualConvBlock(
        in_channels,
        in_channels,
        3,
        stride,
        embedding=make_embedding(config.embedding, in_channels, in_channels, config.reduction),
        estimator=config.estimator,
    )
    if config.real_groups and out_channels != in_channels:
        real = nn.Conv2d(in_channels, out_channels, 1, groups=config.real_groups, bias=False)
        return [spatial, ContextualConvBlock(in_channels, out_channels, 1, binarize=nn.Identity(), conv=real)]
    pointwise = ContextualConvBlock(
        in_channels,
        out_channels,
        1,
        embedding=make_embedding(config.embedding, in_channels, out_channels, config.reduction),
        estimator=config.estimator,
    )
    return [spatial, pointwise]


def _separable_block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def build_mobilenet(config: MobileNetConfig) -> Network:
    """Build the network, with fresh weights."""
    stem: list[nn.Module] = [
        nn.Conv2d(config.in_chans, config.stem_width, 3, config.stem_stride, 1, bias=False),
        nn.BatchNorm2d(config.stem_width),
    ]
    if config.kind == "separable":
        stem.append(nn.ReLU())
    stages: list[list[nn.Module]] = []
    channels: list[tuple[int, int]] = []
    width, reduction = config.stem_width, config.stem_stride
    for out_channels, stride in config.blocks:
        if stride == 2 or not stages:
            stages.append([])
            channels.append((0, 0))
        reduction *= stride
        separable = config.kind == "separable"
        stages[-1] += (
            [_separable_block(width, out_channels, stride)]
            if separable
            else _binary_block(config, width, out_channels, stride)
        )
        width = out_channels
        channels[-1] = (width, reduction)
    for _ in range(config.mlp_groups):
        stages[-1] += [BinaryMLPBlock(width, config.mlp_branches, config.estimator) for _ in range(3)]
        stages[-1].append(PointwiseBlock(width, config.estimator))
    return Network(config, nn.Sequential(*stem), [nn.Sequential(*stage) for stage in stages], channels)
