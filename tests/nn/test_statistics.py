"""Batch norm's statistics, measured from images."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bcdnet.models import build, configure
from bcdnet.nn import BinaryLayer, drop_statistics, lacks_statistics, restore_statistics


def folded(model: nn.Module) -> nn.Module:
    """As a packed file holds it."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.normal_(layer.bias)
    assert not lacks_statistics(model)  # a fresh network, which trains as it is
    drop_statistics(model)
    assert lacks_statistics(model)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fresh_network_of_few_bits_comes_from_no_file(dtype: torch.dtype) -> None:
    """In which 1 - epsilon is 1."""
    build(configure("reactnet_r18_small", num_classes=5, width=0.125)).to(dtype).train()


def test_outputs_stay_and_the_batch_has_the_statistics() -> None:
    torch.manual_seed(0)
    model = folded(build(configure("reactnet_r18_small", num_classes=5, width=0.25))).double()
    images = torch.randn(16, 3, 32, 32, dtype=torch.float64)
    before = model(images)
    model.train().stem.eval()
    restore_statistics(model, images.split([10, 6]))
    assert model.training and not model.stem.training and not lacks_statistics(model)
    model.eval()
    torch.testing.assert_close(model(images), before, rtol=0, atol=1e-9)
    # In train mode the batch's own statistics are now the same ones.
    torch.testing.assert_close(model.train()(images), before, rtol=0, atol=1e-6)


def test_without_it_training_begins_with_another_network() -> None:
    torch.manual_seed(0)
    model = folded(build(configure("reactnet_r18_small", num_classes=5, width=0.25)))
    images = torch.randn(16, 3, 32, 32)
    packed = model(images)
    with pytest.warns(UserWarning, match="comes from a packed file"):
        model.train()
    assert (packed - model(images)).abs().max() > 1


def test_all_kinds_of_batch_norm() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(4, affine=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), plain, nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(64))
    model.append(nn.BatchNorm1d(64, track_running_stats=False)).double()  # which keeps none
    nn.init.normal_(model[2].running_mean)  # statistics of other images
    nn.init.uniform_(model[2].running_var, 0.5, 2)
    images = torch.randn(32, 3, 6, 6, dtype=torch.float64)
    before = model.eval()(images)
    restore_statistics(model, [images])
    torch.testing.assert_close(model(images), before)
    assert torch.equal(plain.running_mean, torch.zeros(4))  # it has no weight to take up the difference
    torch.testing.assert_close(model[4].running_mean, model[:4](images).mean(0))
    torch.testing.assert_close(model[4].running_var, model[:4](images).var(0, correction=0))


def test_every_position_weighs_alike_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double()
    batches = [torch.randn(2, 3, 4, 4, dtype=torch.float64), 2 + torch.randn(3, 3, 8, 6, dtype=torch.float64)]
    restore_statistics(norm, batches)
    positions = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], 1)
    torch.testing.assert_close(norm.running_mean, positions.mean(1))
    torch.testing.assert_close(norm.running_var, positions.var(1, correction=0))


def test_no_images_are_an_error() -> None:
    model = folded(build(configure("reactnet_r18_small", num_classes=5, width=0.25)))
    with pytest.raises(ValueError, match="no images"):
        restore_statistics(model, [])
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert any(isinstance(layer, BinaryLayer) for layer in model.modules())


def test_what_lacks_statistics() -> None:
    assert not lacks_statistics(nn.Linear(2, 2)) and not lacks_statistics(nn.BatchNorm2d(2))
    norm = nn.BatchNorm2d(2, eps=1e-3)
    drop_statistics(norm)
    assert lacks_statistics(nn.Sequential(norm)) and torch.rsqrt(norm.running_var + norm.eps).eq(1).all()
    assert not lacks_statistics(nn.Sequential(norm, nn.BatchNorm2d(2)))


def test_statistics_of_a_model_that_is_not_on_the_cpu() -> None:
    """Sums are taken on the CPU in float64, which some devices do not have."""
    with FakeTensorMode(), torch.device("cuda"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        restore_statistics(model, [torch.empty(2, 3, 8, 8)])
        assert model[1].running_mean.device.type == "cuda"
