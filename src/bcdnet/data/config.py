"""What a recipe says about its data: where it lies, how it is split, how images are sized, normalised and augmented."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bcdnet.errors import RecipeError
from bcdnet.imagenet import IMAGENET_MEAN, IMAGENET_STD

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Crop = Literal["none", "pad", "random_resized"]
Policy = Literal["none", "randaugment", "trivialaugment"]


@dataclass(frozen=True)
class DataConfig:
    """A dataset and the way an image becomes a network's input.

    `path`: a folder (Parquet or ImageFolder), `hf://NAME[:config]`, `wds://…{000..146}.tar` or `digits`; see
    `bcdnet.data.open_dataset`. `validation` is held out of the training split: a number of images (>= 1, whole) or a
    fraction (< 1); 0 holds nothing out. `in_memory`: null decides by size, and streams `wds://`. Random crops of
    a set in memory are cut from images of `resize_size`, those of a streamed one from whole images.

    Evaluation resizes the shorter side to `resize_size` = round(image_size / crop_pct) and crops the centre; an image
    that already has image_size x image_size pixels stays as it is. Upscaled small images want `crop_pct: 1`, the
    default, since a smaller one cuts their border off. Random crops of a set in memory are bilinear, whatever
    `interpolation` is. `mean` and `std` are per channel, of pixels in [0, 1]. `check` decodes every image of both
    splits before the training and names the broken ones; else a streamed set ends the training at the first.

    Raises RecipeError for a value out of range.
    """

    path: str
    image_size: int
    train_split: str = "train"
    test_split: str = "test"
    validation: int | float = 0
    in_memory: bool | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    workers: int = 2
    check: bool = False

    def __post_init__(self) -> None:
        _require(bool(self.path), "path", "a folder, hf://NAME, wds://… or digits", self.path)
        _require(self.image_size >= 4, "image_size", "at least 4", self.image_size)
        _require(bool(self.train_split), "train_split", "the name of a split", self.train_split)
        _require(bool(self.test_split), "test_split", "the name of a split", self.test_split)
        whole_or_fraction = 0 <= self.validation < 1 or self.validation == int(self.validation) >= 1
        _require(whole_or_fraction, "validation", "a fraction below 1 or a whole number of images", self.validation)
        _require(self.channels in (1, 3), "channels", "1 (grey) or 3 (RGB)", self.channels)
        for name, values in (("mean", self.mean), ("std", self.std)):
            _require(len(values) == self.channels, name, f"{self.channels} values, one per channel", values)
        _require(min(self.std) > 0, "std", "positive", self.std)
        _require(0.1 <= self.crop_pct <= 1, "crop_pct", "between 0.1 and 1", self.crop_pct)
        _require_choice("interpolation", self.interpolation, get_args(Interpolation))
        _require(self.workers >= 0, "workers", "0 or more processes", self.workers)

    @property
    def resize_size(self) -> int:
        """Length in pixels of the shorter side before the centre crop."""
        return round(self.image_size / self.crop_pct)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of a training batch; the defaults change nothing. Applied in the order of the fields.

    `crop`: `pad` shifts by up to `padding` zero pixels; `random_resized` takes an area fraction in `scale` with an
    aspect ratio in `ratio` and resizes it. `color_jitter`: strengths of brightness, contrast, saturation and, if a
    fourth is given, hue (at most 0.5); empty for none. `policy_ops` and `policy_magnitude` (0 to 30) belong to
    `randaugment`; `trivialaugment` has no parameters. `erase`: probability that a rectangle is set to the mean.
    `mixup`, `cutmix`: alpha of the Beta distribution of the label weight, 0 for off; a batch takes one of them.

    Raises RecipeError for a value out of range.
    """

    crop: Crop = "none"
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    color_jitter: tuple[float, ...] = ()
    policy: Policy = "none"
    policy_ops: int = 2
    policy_magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        _require_choice("crop", self.crop, get_args(Crop))
        _require(self.padding >= 1, "padding", "at least 1 pixel", self.padding)
        _require(0 < self.scale[0] <= self.scale[1] <= 1, "scale", "ascending within (0, 1]", self.scale)
        _require(0 < self.ratio[0] <= self.ratio[1], "ratio", "positive and ascending", self.ratio)
        jitter = self.color_jitter
        _require(len(jitter) in (0, 3, 4), "color_jitter", "[] or 3 or 4 strengths", jitter)
        _require(all(0 <= strength <= 1 for strength in jitter[:3]), "color_jitter", "between 0 and 1", jitter)
        _require(all(0 <= strength <= 0.5 for strength in jitter[3:]), "color_jitter", "at most 0.5 for hue", jitter)
        _require_choice("policy", self.policy, get_args(Policy))
        _require(1 <= self.policy_ops <= 10, "policy_ops", "between 1 and 10", self.policy_ops)
        _require(0 <= self.policy_magnitude <= 30, "policy_magnitude", "between 0 and 30", self.policy_magnitude)
        _require(0 <= self.erase <= 1, "erase", "a probability", self.erase)
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            _require(alpha >= 0 and math.isfinite(alpha), name, "0 (off) or a positive alpha", alpha)


def preprocess_of(config: DataConfig) -> dict[str, Any]:
    """What a deployed model must do to an image, in timm's keys; `input_size` is [C, H, W]."""
    return {
        "input_size": [config.channels, config.image_size, config.image_size],
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": config.interpolation,
        "crop_pct": config.crop_pct,
    }


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise RecipeError(f"{name}: must be {expected}, got {value!r}")


def _require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise RecipeError(f"{name}: must be one of {', '.join(choices)}; got {value!r}")
