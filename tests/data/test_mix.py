import numpy as np
import pytest
import torch

from bcdnet.data.mix import cutmix, mixup

COUNT, SIZE = 64, 32


@pytest.fixture
def solid():
    """Each image is the constant of its own index, and a class of its own: a mixture tells what it is made of."""
    labels = torch.arange(COUNT)
    return labels.float().view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE).contiguous(), labels


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_targets_are_what_the_image_is_made_of(solid, mix, alpha):
    images, labels = solid
    mixed, targets = mix(images, labels, COUNT, alpha, np.random.default_rng(0))
    assert mixed.shape == images.shape
    torch.testing.assert_close(targets.sum(1), torch.ones(COUNT))
    # The mean of a mixture of constants is the mean of its labels.
    torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ labels.float(), atol=1e-3, rtol=1e-5)
    assert (targets > 0).sum(1).max() == 2


def test_cutmix_weights_are_areas_exactly(solid):
    images, labels = solid
    mixed, targets = cutmix(images, labels, COUNT, 1.0, np.random.default_rng(1))
    for number in range(COUNT):
        own = (mixed[number, 0] == number).float().mean()
        others = mixed[number, 0][mixed[number, 0] != number].unique()
        assert len(others) <= 1
        torch.testing.assert_close(targets[number, number], own)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_each_image_has_a_weight_of_its_own(solid, mix):
    """Of 64 uniform ones some are small, whichever batch it is."""
    for seed in range(10):
        _, targets = mix(*solid, COUNT, 1.0, np.random.default_rng(seed))
        assert targets.diagonal().min() < 0.5


@pytest.mark.parametrize(("mix", "alpha"), [(mixup, 0.2), (mixup, 1.0), (cutmix, 1.0)])
def test_weights_are_distributed_as_beta(solid, mix, alpha):
    images, labels = solid
    generator = np.random.default_rng(2)
    weights = []
    for _ in range(60):
        _, targets = mix(images[:, :1], labels, COUNT, alpha, generator)
        own = targets.diagonal()
        weights.append(own[own < 1])  # an image mixed with itself tells nothing
    weights = torch.cat(weights)
    if mix is mixup:
        assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
        assert weights.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.015)
    else:
        # Squares lose what the border cuts off, so an image keeps more than half of itself.
        assert 0.6 < weights.mean().item() < 0.75


def test_cutmix_takes_its_squares_from_anywhere(solid):
    images, labels = solid
    mixed, _ = cutmix(images, labels, COUNT, 1.0, np.random.default_rng(0))
    inside = mixed[:, 0] != labels.view(-1, 1, 1)
    centres = [mask.nonzero().float().mean(0).tolist() for mask in inside if mask.any()]
    assert abs(np.corrcoef(np.transpose(centres))[0, 1]) < 0.5
