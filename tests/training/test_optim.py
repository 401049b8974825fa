"""Which parameters decay, in step 1 and in step 2."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from bcdnet.models import Network, build, configure
from bcdnet.nn import set_weight_bits
from bcdnet.training.optim import build_optimizer, parameter_groups, restore_state
from bcdnet.training.recipe import Recipe, StepConfig
from bcdnet.training.run import train


@pytest.fixture(scope="module")
def model() -> Network:
    return build(configure("bcdnet_b_r18_small", width=1 / 16, num_classes=3, in_chans=1))


def decaying(model: Network, weight_bits: int) -> set[str]:
    set_weight_bits(model, weight_bits)
    groups = parameter_groups(model, 0.3)
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
    step = StepConfig("s", 0.1, weight_bits=1, epochs=1, optimizer=kind, weight_decay=0.5)
    optimizer = build_optimizer(model, step)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    nonzero = {name for name, value in before.items() if value.any()}
    assert moved == decaying(model, 1) & nonzero


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        ("adamw", 0.1 * 0.5 * 4),  # decay beside the gradient, which is 0
        ("adam", 0.1),  # decay within the gradient, whose size Adam does not see
        ("sgd", 0.1 * (1 + 0.9) * 0.5 * 4),  # the same, with the momentum to come
    ],
)
def test_each_optimiser_decays_in_its_own_way(kind: Literal["adamw", "adam", "sgd"], moved: float) -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 4.0)
    step = StepConfig("s", 0.1, epochs=1, optimizer=kind, weight_decay=0.5)
    layer.weight.grad = torch.zeros_like(layer.weight)
    build_optimizer(layer, step).step()
    assert 4 - layer.weight.item() == pytest.approx(moved, rel=1e-5)


def test_what_is_learned_per_channel_may_have_a_rate_of_its_own(model: Network) -> None:
    step = StepConfig("s", 0.1, weight_bits=1, epochs=1, weight_decay=0.5, channel_lr=0.25)
    optimizer = build_optimizer(model, step)
    groups = optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0, 0.0] and groups[2]["lr_factor"] == 0.25
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(parameter.dim() <= 1 for parameter in groups[2]["params"])
    assert all(parameter.dim() > 1 for group in groups[:2] for parameter in group["params"])
    assert len(parameter_groups(model, 0.5, 1.0)) == 2


def test_the_schedule_keeps_the_factor(make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    original = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        seen.append([group["lr"] for group in self.param_groups])
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    step = {"name": "only", "weight_bits": 1, "iterations": 4, "batch_size": 64, "lr": 1e-3, "channel_lr": 0.5}
    step["warmup_epochs"] = 0.1  # of 22 iterations
    train(make_recipe(steps=[step]), say=lambda message: None)
    assert len(seen) == 4 and all(rates[2] == pytest.approx(0.5 * rates[0]) and rates[0] == rates[1] for rates in seen)
    assert [rates[0] for rates in seen] == pytest.approx([0, 5e-4, 1e-3, 5e-4])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_moments_follow_their_weights_into_another_layout(optimizer: Literal["adamw", "adam", "sgd"]) -> None:
    """As when a run is resumed with another `trainer.channels_last`."""
    step = StepConfig("a", 1e-2, weight_decay=0.1, optimizer=optimizer, iterations=1)
    kernels = []
    for layouts in ((torch.contiguous_format,) * 2, (torch.contiguous_format, torch.channels_last)):
        torch.manual_seed(0)
        conv, state = torch.nn.Conv2d(4, 6, 3), None
        for layout in layouts:
            conv.to(memory_format=layout)
            trained = build_optimizer(conv, step)
            if state is not None:
                restore_state(trained, state)
            for number in range(3):
                gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(number))
                conv.weight.grad = gradient.contiguous(memory_format=layout)
                trained.step()
            state = trained.state_dict()
        kernels.append(conv.weight.detach().contiguous())
    torch.testing.assert_close(kernels[1], kernels[0])
