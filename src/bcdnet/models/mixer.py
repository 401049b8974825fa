"""The binary MLP-Mixer baseline: patches, then token mixing and channel mixing in turn."""

from dataclasses import dataclass

from torch import nn

from bcdnet.errors import RecipeError
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
    """At 224 px and the defaults it costs what ReActNet-A does, to 2 %. `small`: 32 px images in patches of 4."""
    return MixerConfig(
        num_classes=num_classes,
        in_chans=in_chans,
        distilled=distilled,
        estimator=estimator,
        img_size=img_size or (32 if small else 224),
        patch_size=patch_size or (4 if small else 16),
        channels=scale_width(1024, width),
        depth=depth,
    )


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
