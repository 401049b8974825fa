"""The ResNet backbone: Bi-Real Net, ReActNet and BCDNet with one convolution a block, and the real-valued twin.

Every 3 x 3 convolution has its own shortcut; where a stage begins, the shortcut averages, projects and normalises. One
3 x 3 binary convolution costs nine 1 x 1, that is three MLP blocks, which replace it from the deep end.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from bcdnet.errors import RecipeError
from bcdnet.models.limits import MAX_DEPTH, MAX_SIZE, check_branches, check_range
from bcdnet.models.network import Embedding, Network, NetworkConfig, make_embedding, scale_width
from bcdnet.nn import BinaryMLPBlock, ContextualConvBlock, Sign


@dataclass(frozen=True)
class ResNetConfig(NetworkConfig):
    """One network of the family.

    `widths`, `layers`: channels and convolutions of each stage. `stem`: "imagenet" (7 x 7 / 2 and max pooling) or
    "small" (3 x 3). `kind`: "reactnet" (RSign, RPReLU), "bireal" (sign, no activation) or "real" (no binarisation).
    """

    stem: Literal["imagenet", "small"] = "imagenet"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    layers: tuple[int, ...] = (4, 4, 4, 4)
    kind: Literal["reactnet", "bireal", "real"] = "reactnet"
    embedding: Embedding = "none"
    reduction: int = 4
    mlp_blocks: int = 0
    mlp_branches: tuple[str, ...] = ("none", "short", "long")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or len(self.widths) != len(self.layers) or min(self.layers) < 1:
            raise RecipeError(f"widths and layers name the same stages, unlike {self.widths} and {self.layers}")
        check_range(0, MAX_DEPTH, layers=[sum(self.layers)], mlp_blocks=[self.mlp_blocks])
        check_branches(self.mlp_branches)
        check_range(0, MAX_DEPTH, mlp_branches=[self.mlp_blocks * len(self.mlp_branches)])  # in all blocks
        check_range(1, MAX_SIZE, widths=self.widths, reduction=[self.reduction])
        if self.kind != "reactnet" and (self.embedding != "none" or self.mlp_blocks):
            raise RecipeError(f"embedding and mlp_blocks belong to kind 'reactnet', not '{self.kind}'")


def resnet_config(
    *,
    width: float = 1.0,
    mlp_blocks: int = 0,
    small: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    distilled: bool = False,
    estimator: str = "polynomial",
    layers: tuple[int, ...] = (4, 4, 4, 4),
    kind: Literal["reactnet", "bireal", "real"] = "reactnet",
    embedding: Embedding = "none",
    reduction: int = 4,
    mlp_branches: tuple[str, ...] = ("none", "short", "long"),
) -> ResNetConfig:
    """Networks at equal cost: every three of `mlp_blocks` replace one convolution of the last stage (not its first).

    `small`: a stem without downsampling.
    """
    layers = tuple(layers)
    if not layers:
        raise RecipeError("layers is empty: give the number of convolutions of each stage")
    replaced = mlp_blocks // 3
    if mlp_blocks % 3 or not 0 <= replaced < layers[-1]:
        raise RecipeError(f"mlp_blocks is a multiple of 3, at most {3 * (layers[-1] - 1)}, not {mlp_blocks}")
    base = scale_width(64, width)
    return ResNetConfig(
        num_classes=num_classes,
        in_chans=in_chans,
        distilled=distilled,
        estimator=estimator,
        stem="small" if small else "imagenet",
        widths=tuple(base * 2**stage for stage in range(len(layers))),
        layers=(*layers[:-1], layers[-1] - replaced),
        kind=kind,
        embedding=embedding,
        reduction=reduction,
        mlp_blocks=mlp_blocks,
        mlp_branches=tuple(mlp_branches),
    )


def resnet_settings(config: ResNetConfig) -> dict[str, Any]:
    """The inverse of `resnet_config`, where a parameter is no field."""
    replaced = config.mlp_blocks // 3
    return {
        "width": config.widths[0] / 64,
        "small": config.stem == "small",
        "layers": (*config.layers[:-1], config.layers[-1] + replaced),
    }


def _block(config: ResNetConfig, in_channels: int, out_channels: int, stride: int) -> ContextualConvBlock:
    projection = stride != 1 or in_channels != out_channels
    if config.kind == "real":
        conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        return ContextualConvBlock(
            in_channels, out_channels, 3, stride, projection=projection, binarize=nn.Identity(), conv=conv
        )
    if config.kind == "bireal":
        return ContextualConvBlock(
            in_channels,
            out_channels,
            3,
            stride,
            projection=projection,
            binarize=Sign(config.estimator),
            act=nn.Identity(),
        )
    return ContextualConvBlock(
        in_channels,
        out_channels,
        3,
        stride,
        projection=projection,
        embedding=make_embedding(config.embedding, in_channels, out_channels, config.reduction),
        estimator=config.estimator,
    )


def build_resnet(config: ResNetConfig) -> Network:
    """Build the network, with fresh weights."""
    width = config.widths[0]
    if config.stem == "imagenet":
        stem = nn.Sequential(
            nn.Conv2d(config.in_chans, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, 1)
        )
        reduction = 4
    else:
        stem = nn.Sequential(nn.Conv2d(config.in_chans, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        reduction = 1
    stages: list[nn.Sequential] = []
    channels: list[tuple[int, int]] = []
    for index, (out_channels, depth) in enumerate(zip(config.widths, config.layers, strict=True)):
        stride = 1 if index == 0 else 2
        blocks: list[nn.Module] = [_block(config, width, out_channels, stride)]
        width, reduction = out_channels, reduction * stride
        blocks += [_block(config, width, width, 1) for _ in range(depth - 1)]
        stages.append(nn.Sequential(*blocks))
        channels.append((width, reduction))
    for _ in range(config.mlp_blocks):
        stages[-1].append(BinaryMLPBlock(width, config.mlp_branches, config.estimator))
    return Network(config, stem, stages, channels)
