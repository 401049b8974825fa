"""Batch norm's statistics, measured from images."""

import pytest
import torch
from torch import nn

from bcdnet.models import build, configure
from bcdnet.nn import BinaryLayer, restore_statistics


def folded(model: nn.Module) -> nn.Module:
    """As a packed file holds it."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.constant_(layer.running_var, 1 - layer.eps)
    return model.eval()


def test_outputs_stay_and_the_batch_has_the_statistics() -> None:
    torch.manual_seed(0)
    model = folded(build(configure("reactnet_r18_small", num_classes=5, width=0.25))).double()
    images = torch.randn(16, 3, 32, 32, dtype=torch.float64)
    before = model(images)
    restore_statistics(model.train(), images.split([10, 6]))
    assert model.training
    model.eval()
    torch.testing.assert_close(model(images), before, rtol=0, atol=1e-9)
    # In train mode the batch's own statistics are now the same ones.
    torch.testing.assert_close(model.train()(images), before, rtol=0, atol=1e-6)


def test_without_it_training_begins_with_another_network() -> None:
    torch.manual_seed(0)
    model = folded(build(configure("reactnet_r18_small", num_classes=5, width=0.25)))
    images = torch.randn(16, 3, 32, 32)
    assert (model(images) - model.train()(images)).abs().max() > 1


def test_all_kinds_of_batch_norm() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(4, affine=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), plain, nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(64)).double()
    images = torch.randn(32, 3, 6, 6, dtype=torch.float64)
    before = model.eval()(images)
    restore_statistics(model, [images])
    torch.testing.assert_close(model(images), before)
    assert torch.equal(plain.running_mean, torch.zeros(4))  # it has no weight to take up the difference
    torch.testing.assert_close(model[4].running_mean, model[:4](images).mean(0))
    torch.testing.assert_close(model[4].running_var, model[:4](images).var(0, correction=0))


def test_no_images_are_an_error() -> None:
    model = folded(build(configure("reactnet_r18_small", num_classes=5, width=0.25)))
    with pytest.raises(ValueError, match="no images"):
        restore_statistics(model, [])
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert any(isinstance(layer, BinaryLayer) for layer in model.modules())
