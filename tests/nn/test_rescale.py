"""Rescaling latent weights changes their size, and nothing that can be seen from outside."""

import copy

import pytest
import torch
from torch import nn

from bcdnet.models import build, configure
from bcdnet.nn import BinaryConv2d, BinaryLayer, rescale_latent_weights, set_weight_bits, sign

NETWORKS = {
    "bcdnet_b_r18_small": {"width": 1 / 16},
    "bcdnet_b_small": {"width": 1 / 8},
    "reactnet_r18_small": {"width": 1 / 16, "embedding": "full"},
    "binary_mixer_small": {"width": 1 / 64, "depth": 2},
    "resnet18_twin_small": {"width": 1 / 16},
}


def network(name: str) -> nn.Module:
    """In float64, with an embedding that does something and statistics of its own; batch norm's epsilon would show."""
    torch.manual_seed(0)
    model = build(configure(name, num_classes=3, **NETWORKS[name])).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-20
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for parameter_name, parameter in model.named_parameters():
        if "embedding" in parameter_name:
            nn.init.uniform_(parameter, -0.2, 0.2)
    return model


@pytest.mark.parametrize("bits", [1, 32])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay(name: str, training: bool, bits: int) -> None:
    model = network(name).train(training)
    set_weight_bits(model, bits)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    rescaled = copy.deepcopy(model)
    rescale_latent_weights(rescaled, 0.01)
    torch.testing.assert_close(rescaled(images), model(images), rtol=1e-9, atol=1e-9)
    for (key, before), after in zip(model.state_dict().items(), rescaled.state_dict().values(), strict=True):
        if key.endswith("latent_weight"):
            assert torch.equal(sign(before), sign(after)), key


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_gets_the_size_that_was_asked_for(name: str) -> None:
    model = network(name)
    rescale_latent_weights(model, 0.01)
    blocks = [block for block in model.modules() if isinstance(getattr(block, "bn", None), nn.BatchNorm2d)]
    seen = 0
    for block in blocks:
        weights = [child.latent_weight.flatten() for child in block.modules() if isinstance(child, BinaryLayer)]
        seen += len(weights)
        if weights:
            assert torch.cat(weights).square().mean().sqrt().item() == pytest.approx(0.01)
    assert seen == sum(isinstance(module, BinaryLayer) for module in model.modules())


def test_epsilon_changes_nothing_where_a_trained_network_is_used() -> None:
    """Signs would turn over for it, and change some of a network's answers."""
    model = network("bcdnet_b_r18_small").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    before = model(images)
    rescale_latent_weights(model, 0.01)
    torch.testing.assert_close(model(images), before, rtol=1e-9, atol=1e-9)


def test_a_channel_that_never_varied_gets_no_huge_factor() -> None:
    """With which its first signal in training would drown the others."""
    model = Wrapped(BinaryConv2d(4, 4, 1))
    nn.init.constant_(model.bn.running_var, 1e-12)
    rescale_latent_weights(model, 1e-3)
    assert torch.equal(model.bn.weight, torch.full((4,), 2.0))


@pytest.mark.parametrize("rms", [0, -0.01, float("nan"), float("inf")])
def test_a_size_is_positive(rms: float) -> None:
    with pytest.raises(ValueError, match="rms is a positive number"):
        rescale_latent_weights(network("bcdnet_b_r18_small"), rms)


def test_weights_of_zero_stay() -> None:
    model = network("bcdnet_b_r18_small")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BinaryLayer):
                module.latent_weight.zero_()
    before = copy.deepcopy(model.state_dict())
    rescale_latent_weights(model, 0.01)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Wrapped(nn.Module):
    """A block around layers, with a batch norm behind them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(4)


@pytest.mark.parametrize(
    "layers",
    [
        [BinaryConv2d(4, 4, 1), nn.BatchNorm2d(4), BinaryConv2d(4, 4, 1)],
        [Wrapped(BinaryConv2d(4, 4, 1))],
    ],
    ids=["one after another", "nested"],
)
def test_blocks_that_do_not_scale_as_one_are_errors(layers: list[nn.Module]) -> None:
    model = Wrapped(*layers)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="has 2 batch norms behind it"):
        rescale_latent_weights(model, 0.01)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_layer_without_batch_norm_is_an_error_and_nothing_changes() -> None:
    model = nn.Sequential(network("bcdnet_b_r18_small"), BinaryConv2d(3, 3, 1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^1 has no batch norm behind"):
        rescale_latent_weights(model, 0.01)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
