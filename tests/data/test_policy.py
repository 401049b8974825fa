import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from bcdnet.data.policy import OPERATIONS, Operation, apply_policy, color_jitter

COLOURS = {
    "brightness": (tv.adjust_brightness, 1.6),
    "color": (tv.adjust_saturation, 0.3),
    "contrast": (tv.adjust_contrast, 1.7),
    "sharpness": (tv.adjust_sharpness, 1.9),
    "posterize": (tv.posterize, 3),
    "solarize": (lambda image, threshold: tv.solarize(image, threshold), 0.4),
    "auto_contrast": (lambda image, _: tv.autocontrast(image), 0.0),
    "equalize": (lambda image, _: tv.equalize(image), 0.0),
}
# Translation to the right by 1/4, rotation by 90 degrees, …: (operation, value, torchvision's arguments of affine).
SIZE = 32
GEOMETRY = {
    "translate_x": (0.25, {"translate": [-SIZE // 4, 0]}),
    "translate_y": (-0.5, {"translate": [0, SIZE // 2]}),
    "rotate": (30.0, {"angle": -30.0}),
    "shear_x": (0.3, {"shear": [float(np.degrees(np.arctan(0.3))), 0.0]}),
    "shear_y": (-0.2, {"shear": [0.0, float(np.degrees(np.arctan(-0.2)))]}),
}


@pytest.fixture(scope="module")
def images(shared):
    from bcdnet.data import DataConfig
    from bcdnet.data.dataset import Subset
    from bcdnet.data.open import open_dataset
    from bcdnet.data.resize import to_pixels

    config = DataConfig(str(shared / "data" / "cifar10"), SIZE)
    some = Subset(open_dataset(config.path, "test"), np.arange(64))
    return (
        torch.from_numpy(np.stack([to_pixels(some.image(row), config, SIZE, "x") for row in range(64)])).float() / 255
    )


def values(value, count):
    return torch.full((count,), float(value))


@pytest.mark.parametrize("name", COLOURS)
def test_pixel_operations_are_torchvision_s(images, name):
    expected, value = COLOURS[name]
    changed = OPERATIONS[name].apply(images[:8], values(value, 8))
    # torchvision counts some of these in grey levels of uint8.
    in_levels = name in ("posterize", "equalize", "auto_contrast")
    source = (images[:8] * 255).round().to(torch.uint8) if in_levels else images[:8]
    reference = expected(source, value).float() / (255 if in_levels else 1)
    assert (changed - reference).abs().max() < (1.5 / 255 if in_levels else 1e-2)


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometric_operations_are_torchvision_s(images, name):
    value, arguments = GEOMETRY[name]
    changed = OPERATIONS[name].apply(images[:8], values(value, 8))
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | arguments
    reference = tv.affine(images[:8], **settings, interpolation=v2.InterpolationMode.BILINEAR)
    assert (changed - reference).abs().mean() < 2e-3


def test_every_image_gets_its_own_operation(images):
    same = images[:1].expand(64, -1, -1, -1)
    changed = apply_policy(same, "trivialaugment", 1, None, np.random.default_rng(0))
    assert len(changed.flatten(1).unique(dim=0)) > 40
    assert changed.isfinite().all()
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-5


def test_every_operation_and_every_level_is_drawn(monkeypatch):
    drawn = {name: [] for name, operation in OPERATIONS.items() if operation is not None}
    for name, values in drawn.items():
        counting = Operation(lambda images, level, values=values: values.extend(level.tolist()) or images + 1, 0, 0, 30)
        monkeypatch.setitem(OPERATIONS, name, counting)
    changed = apply_policy(torch.zeros(9000, 1, 1, 1), "trivialaugment", 1, None, np.random.default_rng(0))
    assert all({round(level) for level in values} == set(range(31)) for values in drawn.values())
    assert 0.05 < (changed == 0).float().mean() < 0.1  # the identity, one of 14


def test_level_zero_of_randaugment_changes_nothing_but_the_contrast(images):
    unchanged = apply_policy(images, "randaugment", 1, 0, np.random.default_rng(0))
    alike = (unchanged - images).abs().amax((1, 2, 3)) < 1e-4
    # Auto-contrast and equalisation (2 of 14) have no strength; solarising at threshold 1 inverts pure white.
    assert alike.float().mean() > 0.7


def test_strength_grows_with_the_level(images):
    def distance(level):
        return (apply_policy(images, "randaugment", 2, level, np.random.default_rng(1)) - images).abs().mean()

    assert distance(3) < distance(9) < distance(20)


TORCHVISION = {
    "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY",
    "rotate": "Rotate", "brightness": "Brightness", "color": "Color", "contrast": "Contrast", "sharpness": "Sharpness",
    "posterize": "Posterize", "solarize": "Solarize",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_strengths_are_torchvision_s(name):
    """The strongest of 31 levels; torchvision counts colours from 0, and shifts in pixels."""
    operation = OPERATIONS[name]
    for space, limit in ((v2.RandAugment, operation.randaugment), (v2.TrivialAugmentWide, operation.trivialaugment)):
        levels, signed = space._AUGMENTATION_SPACE[TORCHVISION[name]]
        theirs = float(levels(31, 331, 331)[-1])
        if "translate" in name:
            theirs = theirs / 331 if space is v2.RandAugment else 0.5  # of small images the other leaves nothing
        if name in ("brightness", "color", "contrast", "sharpness"):
            theirs += 1
        assert (limit, operation.signed) == (pytest.approx(theirs), signed)


def test_color_jitter_stays_within_its_strengths(images):
    generator = np.random.default_rng(0)
    assert torch.equal(color_jitter(images, (0, 0, 0, 0), generator), images)
    dimmed = color_jitter(images * 0.5, (0.4, 0, 0), generator)
    ratio = (dimmed.mean((1, 2, 3)) / (images * 0.5).mean((1, 2, 3))).numpy()
    assert 0.6 <= ratio.min() < 0.7
    assert 1.3 < ratio.max() <= 1.4 + 1e-5
    grey = images.mean(1, keepdim=True)
    jittered = color_jitter(grey, (0.0, 0.0, 0.4, 0.5), generator)
    assert torch.equal(jittered, grey)
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(500, 3, 1, 1)
    turned = [colorsys.rgb_to_hsv(*pixel)[0] for pixel in color_jitter(red, (0, 0, 0, 0.25), generator).flatten(1)]
    assert 0.24 < max(min(turn, 1 - turn) for turn in turned) <= 0.25 + 1e-5
    hue = color_jitter(images, (0, 0, 0, 0.5), generator)
    torch.testing.assert_close(hue.amax(1), images.amax(1), atol=1e-4, rtol=0)  # HSV's value stays


def test_contrast_of_grey_images_is_each_images_own() -> None:
    grey = torch.rand(3, 1, 4, 4)
    factors = torch.tensor([0.5, 1.5, 0.0])
    together = OPERATIONS["contrast"].apply(grey, factors)
    apart = [
        OPERATIONS["contrast"].apply(image[None], factor[None]) for image, factor in zip(grey, factors, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(apart))
    torch.testing.assert_close(together[2], grey[2].mean().expand(1, 4, 4))


class SameStrength:
    """A generator that draws one strength, and orders at random."""

    def __init__(self, seed):
        self.permutation = np.random.default_rng(seed).permutation

    def uniform(self, low, high, size):
        return np.full(size, 0.4)


def test_the_order_of_color_jitter_is_random(images):
    seen = {round(float(color_jitter(images, (0.4, 0.4, 0.4), SameStrength(seed)).sum()), 1) for seed in range(12)}
    assert len(seen) > 2


@pytest.mark.parametrize(("policy", "level", "offset"), [("randaugment", 10, 0.2), ("trivialaugment", 30, 0.9)])
def test_strengths_lie_on_either_side_as_far_as_the_policy_goes(monkeypatch, policy, level, offset):
    seen = []
    recording = Operation(lambda images, values: seen.extend(values.tolist()) or images, 1, 1.6, 1.9, signed=True)
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, recording)
    apply_policy(torch.zeros(400, 1, 1, 1), policy, 1, level, np.random.default_rng(0))
    above = sum(value > 1 for value in seen)
    assert len(seen) == 400 and 150 < above < 250
    assert sorted(seen) == pytest.approx([1 - offset] * (400 - above) + [1 + offset] * above)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_alone_keeps_the_mean_and_moves_the_rest(channels):
    """Of grey images too."""
    images = 0.4 + 0.2 * torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(
        -1, channels, -1, -1
    )
    jittered = color_jitter(images, (0.0, 0.4, 0.0), np.random.default_rng(0))
    torch.testing.assert_close(jittered.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-3, rtol=0)
    ratio = jittered.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.6 <= ratio.min() < 0.7 and 1.3 < ratio.max() <= 1.4 + 1e-5
