"""Networks that keep only their blocks' inputs for the backward pass."""

import copy

import pytest
import timm
import torch
from torch import nn

from bcdnet.models import build, configure
from bcdnet.training.sync_bn import synchronise_batch_norm

NAMES = ["bcdnet_b_small", "bcdnet_b_r18_small", "resnet18_twin_small", "binary_mixer_small"]


def one_step(model: nn.Module, images: torch.Tensor, precision: torch.dtype = torch.float32) -> tuple[dict, int]:
    """All that a training step leaves behind, gradients first, and the bytes that its backward pass was given."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != torch.float32):
            logits = model(images)
        held = sum(kept.values())
        torch.stack([part.float().square().mean() for part in logits]).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients | dict(model.named_buffers()), held


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, torch.float32) for name in NAMES), (NAMES[1], torch.bfloat16)]
)
def test_a_step_is_the_same_to_the_bit_in_less_memory(name: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, width=0.25)
    model.set_distilled_training()
    images = torch.randn(8, 3, 32, 32)
    again = copy.deepcopy(model)
    again.set_grad_checkpointing()
    plain, held = one_step(model, images, precision)
    found, held_again = one_step(again, images, precision)
    assert plain.keys() == found.keys() and all(value is not None for value in plain.values())
    assert [key for key in plain if not torch.equal(plain[key], found[key])] == []
    assert held_again < held / 2
    again.set_grad_checkpointing(False)
    again.zero_grad()
    assert one_step(again, images, precision)[1] == held


def test_layers_are_left_as_they_were() -> None:
    """Their buffers are the same tensors, which an average or another process may know; frozen ones stay frozen."""
    torch.manual_seed(0)
    model = build(configure("reactnet_r18_small", num_classes=4, width=0.125))
    model.set_grad_checkpointing()
    frozen = next(layer for layer in model.stages.modules() if isinstance(layer, nn.BatchNorm2d)).eval()
    before, same = copy.deepcopy(frozen.state_dict()), dict(model.named_buffers())
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in frozen.named_buffers())
    assert all(value is same[name] for name, value in model.named_buffers())


def test_eval_mode_computes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(configure("reactnet_r18_small", num_classes=4, width=0.125)).eval()
    model.set_grad_checkpointing()
    monkeypatch.setattr("bcdnet.models.network.recomputed", lambda block, x: pytest.fail("recomputed in eval mode"))
    model(torch.randn(1, 3, 32, 32))


def test_several_losses_of_one_pass() -> None:
    """What each backward pass enters could once be entered only once."""
    torch.manual_seed(0)
    plain = build(configure("reactnet_r18_small", num_classes=4, width=0.125))
    again, images = copy.deepcopy(plain), torch.randn(4, 3, 32, 32)
    again.set_grad_checkpointing()
    for model in (plain, again):
        features = model.forward_features(images)
        features.mean().backward(retain_graph=True)
        features.square().mean().backward()
    # The heads, which have no gradients, aside.
    for (name, expected), found in zip(plain.stages.named_parameters(), again.stages.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad), name
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), again.buffers(), strict=True))


@pytest.mark.slow
def test_compiled_statistics_move_once() -> None:
    torch.manual_seed(0)
    model = build(configure("resnet18_twin_small", num_classes=4, width=0.125, layers=(1, 1, 1, 1)))
    images, (plain, again) = torch.randn(8, 3, 32, 32), (copy.deepcopy(model) for _ in range(2))
    again.set_grad_checkpointing()
    expected, _ = one_step(plain, images)
    compiled = torch.compile(again, fullgraph=True, dynamic=False)
    compiled(images).square().mean(1).sum().backward()
    for name, value in dict(again.named_buffers()).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_batch_norm_over_processes_does_not_track_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build(configure("resnet18_twin_small", num_classes=4, width=0.125, layers=(1, 1, 1, 1)))
    model.set_grad_checkpointing()
    synchronise_batch_norm(model)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: x.mul_(2))  # two processes with the same images
    buffers, _ = one_step(model, torch.randn(8, 3, 32, 32))
    counts = {int(value) for name, value in buffers.items() if name.endswith("num_batches_tracked")}
    assert counts == {1}
