"""Which parameters decay, in step 1 and in step 2."""

import pytest
import torch

from bcdnet.models import Network, build, configure
from bcdnet.training.optim import build_optimizer, parameter_groups
from bcdnet.training.recipe import StepConfig


@pytest.fixture(scope="module")
def model() -> Network:
    return build(configure("bcdnet_b_r18_small", width=1 / 16, num_classes=3, in_chans=1))


def decaying(model: Network, weight_bits: int) -> set[str]:
    groups = parameter_groups(model, 0.3, weight_bits)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(names)  # each parameter once
    return {names[id(parameter)] for parameter in groups[0]["params"]}


def test_only_weights_decay_and_latent_ones_in_step_1_alone(model: Network) -> None:
    real, binary = decaying(model, 32), decaying(model, 1)
    latent = {name for name, _ in model.named_parameters() if name.endswith("latent_weight")}
    assert latent and latent <= real
    assert real - binary == latent
    assert {"stem.0.weight", "head.fc.weight", "head.fc_dist.weight", "stages.0.0.embedding.to_alpha.weight"} <= binary
    kept_out = {name for name, _ in model.named_parameters()} - real
    for kind in (
        "stem.1.weight",
        "stem.1.bias",
        "head.fc.bias",
        "binarize.bias",
        "act.weight",
        "act.bias_in",
        "bn.weight",
    ):
        assert any(name.endswith(kind) for name in kept_out), kind
        assert not any(name.endswith(kind) for name in real), kind


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_step_without_a_gradient_moves_what_decays_alone(model: Network, kind: str) -> None:
    step = StepConfig("s", 0.1, weight_bits=1, epochs=1, optimizer=kind, weight_decay=0.5)  # type: ignore[arg-type]
    optimizer = build_optimizer(model, step)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    nonzero = {name for name, value in before.items() if value.any()}
    assert moved == decaying(model, 1) & nonzero
