import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.data import Augment, AugmentConfig
from bcdnet.errors import DataError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CONFIGS = {
    "nothing": AugmentConfig(),
    "small images": AugmentConfig(crop="pad", flip=True),
    "step 1": AugmentConfig(crop="random_resized", flip=True, color_jitter=(0.4, 0.4, 0.4)),
    "hue": AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.1)),
    "randaugment": AugmentConfig(crop="pad", policy="randaugment"),
    "trivialaugment": AugmentConfig(flip=True, policy="trivialaugment", erase=0.5),
    "mixup": AugmentConfig(mixup=0.2),
    "cutmix": AugmentConfig(cutmix=1.0),
    "both": AugmentConfig(crop="pad", flip=True, mixup=0.2, cutmix=1.0, erase=0.25),
}


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (32,), generator=generator)


def augmented(config, batch, seed):
    return Augment(config, 32, MEAN, STD)(*batch, 10, seed=seed)


@pytest.mark.parametrize("name", CONFIGS)
def test_seed_alone_decides(name, batch):
    config = CONFIGS[name]
    images, targets = augmented(config, batch, 3)
    assert images.dtype == torch.float32
    assert images.shape == (32, 3, 32, 32)
    assert images.isfinite().all()
    again, again_targets = augmented(config, batch, 3)
    assert torch.equal(images, again)
    assert torch.equal(targets, again_targets)
    if name != "nothing":
        assert not torch.equal(images, augmented(config, batch, 4)[0])
    if config.mixup or config.cutmix:
        assert targets.shape == (32, 10)
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(32))
    else:
        assert torch.equal(targets, batch[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_input_and_global_generators_are_left_alone(name, batch):
    images = batch[0].clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    augmented(CONFIGS[name], batch, 5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert torch.equal(batch[0], images)


def test_without_augmentation_images_are_normalised(batch):
    images, _ = augmented(AugmentConfig(), batch, 0)
    expected = (batch[0].float() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


def test_colours_that_stay_are_normalised_alike(batch):
    plain, _ = augmented(AugmentConfig(), batch, 0)
    torch.testing.assert_close(augmented(AugmentConfig(color_jitter=(0, 0, 0)), batch, 0)[0], plain, atol=1e-5, rtol=0)


def test_a_policy_has_its_number_of_operations_and_their_strength():
    """At strength 0 all but two of its operations, which have none, leave a picture as it is."""
    batch = torch.randint(0, 128, (200, 3, 32, 32), dtype=torch.uint8), torch.zeros(200, dtype=torch.long)
    plain, _ = augmented(AugmentConfig(), batch, 0)

    def changed(ops, magnitude):
        config = AugmentConfig(policy="randaugment", policy_ops=ops, policy_magnitude=magnitude)
        return ((augmented(config, batch, 0)[0] - plain).abs().amax((1, 2, 3)) > 0.1).float().mean()

    assert changed(1, 0) < 0.3 < changed(10, 0) < 0.95
    assert changed(1, 30) > 0.7


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_any_64_bits_are_a_seed(seed):
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    result, _ = Augment(CONFIGS["small images"], 32, MEAN, STD)(images, torch.zeros(2, dtype=torch.long), 10, seed=seed)
    assert result.shape == (2, 3, 32, 32)


def test_flips_and_shifts_are_as_frequent_as_they_should_be():
    ramp = torch.arange(32, dtype=torch.uint8).expand(2000, 3, 32, 32).contiguous()
    labels = torch.zeros(2000, dtype=torch.long)
    plain = Augment(AugmentConfig(), 32, MEAN, STD)(ramp, labels, 2, seed=0)[0]
    mirrored = Augment(AugmentConfig(flip=True), 32, MEAN, STD)(ramp, labels, 2, seed=0)[0]
    assert 900 < (mirrored == plain.flip(-1)).all((1, 2, 3)).sum() < 1100
    moved = Augment(AugmentConfig(crop="pad", padding=2), 32, MEAN, STD)(ramp + 1, labels, 2, seed=0)[0]
    columns = (moved[:, 0, 16, 16] * STD[0] + MEAN[0]).mul(255).round().long() - 1
    assert torch.bincount(columns - 14, minlength=5).min() > 300


def test_erased_rectangles_have_the_mean_and_their_probability():
    images = torch.full((1000, 3, 32, 32), 255, dtype=torch.uint8)
    labels = torch.zeros(1000, dtype=torch.long)
    erased, _ = Augment(AugmentConfig(erase=0.3), 32, MEAN, STD)(images, labels, 2, seed=1)
    share = (erased[:, 0] == 0).float().mean((1, 2))
    assert 250 < (share > 0).sum() < 350
    assert share[share > 0].min() > 0.015
    assert share.max() < 0.36
    assert len(share.unique()) > 100  # each image has a rectangle of its own


def test_a_batch_takes_one_of_mixup_and_cutmix(batch):
    config = CONFIGS["both"]
    augment = Augment(AugmentConfig(mixup=config.mixup, cutmix=config.cutmix), 32, MEAN, STD)
    plain, _ = augmented(AugmentConfig(), batch, 0)
    # CutMix copies pixels, mixup blends them.
    copied = [torch.isin(augment(*batch, 10, seed=seed)[0], plain).all().item() for seed in range(40)]
    assert 8 < sum(copied) < 32


def test_images_of_another_size_are_refused_unless_cropped_at_random():
    images, labels = torch.zeros(2, 3, 40, 40, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    with pytest.raises(DataError, match="images of 40x40 pixels where image_size is 32"):
        augmented(CONFIGS["small images"], (images, labels), 0)
    assert augmented(CONFIGS["step 1"], (images, labels), 0)[0].shape == (2, 3, 32, 32)


def test_grey_images():
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    labels = torch.zeros(8, dtype=torch.long)
    for config in CONFIGS.values():
        result, _ = Augment(config, 28, (0.3,), (0.35,))(images, labels, 10, seed=2)
        assert result.shape == (8, 1, 28, 28)
