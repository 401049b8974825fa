"""The binary MLP-Mixer baseline: patches, then token mixing and channel mixing in turn."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from bcdnet.errors import RecipeError
from bcdnet.models.limits import MAX_DEPTH, MAX_SIZE, check_range
from bcdnet.models.network import Network, NetworkConfig, scale_width
from bcdnet.nn import PointwiseBlock, TokenMixingBlock


@dataclass(frozen=True)
class MixerConfig(NetworkConfig):
    """One network of the family: square images of `img_size`, patches of `patch_size`, `depth` pairs of blocks."""

    img_size: int = 224
    patch_size: int = 16
    channels: int = 1024
    depth: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, MAX_DEPTH, depth=[self.depth])
        check_range(1, MAX_SIZE, img_size=[self.img_size], patch_size=[self.patch_size], channels=[self.channels])
        if self.img_size % self.patch_size:
            raise RecipeError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")


def mixer_config(
    *,
    width: float = 1.0,
    small: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    distilled: bool = False,
    estimator: str = "polynomial",
    img_size: int | None = None,
    patch_size: int | None = None,
    depth: int = 20,
) -> MixerConfig:
    """By default, for 224 px, it has ReActNet-A's binary operations, to 2 %. `small`: 32 px images in patches of 4."""
    return MixerConfig(
        num_classes=num_classes,
        in_chans=in_chans,
        distilled=distilled,
        estimator=estimator,
        img_size=(32 if small else 224) if img_size is None else img_size,
        patch_size=(4 if small else 16) if patch_size is None else patch_size,
        channels=scale_width(1024, width),
        depth=depth,
    )


def mixer_settings(config: MixerConfig) -> dict[str, Any]:
    """The inverse of `mixer_config`, where a parameter is no field; sizes are None where they go with the name."""
    small = (config.img_size, config.patch_size) == (32, 4)
    named = small or (config.img_size, config.patch_size) == (224, 16)
    sizes = {"img_size": None, "patch_size": None} if named else {}
    return {"width": config.channels / 1024, "small": small, **sizes}


def build_mixer(config: MixerConfig) -> Network:
    """Build the network, with fresh weights."""
    stem = nn.Sequential(
        nn.Conv2d(config.in_chans, config.channels, config.patch_size, config.patch_size, bias=False),
        nn.BatchNorm2d(config.channels),
    )
    tokens = (config.img_size // config.patch_size) ** 2
    blocks: list[nn.Module] = []
    for _ in range(config.depth):
        blocks += [
            TokenMixingBlock(config.channels, tokens, config.estimator),
            PointwiseBlock(config.channels, config.estimator),
        ]
    return Network(config, stem, [nn.Sequential(*blocks)], [(config.channels, config.patch_size)])
