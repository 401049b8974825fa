"""The published models' own outputs and gradients, from their own weights: the files in `shared/golden`."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet.interop import from_reference, mobilenet, resnet
from bcdnet.interop.renaming import rename
from bcdnet.models import Network

FILES = {
    "bcdnet_a_official_small": mobilenet,
    "reactnet_a_official_small": mobilenet,
    "reactnet_r18_official_small": resnet,
}


class Golden:
    """One file: its state dict, its gradients and its single arrays."""

    def __init__(self, path: Path, family: ModuleType) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.family = family

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in self.arrays.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=FILES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    path = shared / "golden" / f"{request.param}.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return Golden(path, FILES[request.param])


def assert_close(actual: Tensor, expected: Tensor, rtol: float, floor: float) -> None:
    """Equal to `rtol`, with an absolute tolerance of `floor` times the tensor's largest entry."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=floor * expected.abs().max().item())


def train_step(golden: Golden) -> tuple[Network, tuple[Tensor, ...], Tensor]:
    """One backward pass as the file's README describes it: train mode, BatchNorm in eval mode, mean over the heads."""
    model = from_reference(golden.under("state_dict/")).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.set_distilled_training(True)
    output = model(golden.arrays["input"])
    heads = output if isinstance(output, tuple) else (output,)
    loss = torch.stack([F.cross_entropy(head, golden.arrays["target"]) for head in heads]).mean()
    loss.backward()
    return model, heads, loss


def test_logits(golden: Golden) -> None:
    model = from_reference(golden.under("state_dict/"))
    with torch.no_grad():
        logits = model(golden.arrays["input"])
    assert_close(logits, golden.arrays["logits"], rtol=1e-4, floor=1e-6)


def test_heads_loss_and_gradients(golden: Golden) -> None:
    model, heads, loss = train_step(golden)
    expected = golden.under("train_logits/")
    assert len(heads) == len(expected)
    for index, head in enumerate(heads):
        assert_close(head.detach(), expected[str(index)], rtol=1e-4, floor=1e-6)
    assert loss.item() == pytest.approx(golden.arrays["loss"].item(), rel=1e-5)
    parameters = dict(model.named_parameters())
    rules = [rule for rule in golden.family.rules(model) if rule.target in parameters]
    gradients = rename(rules, golden.under("grad/"), parameters)
    assert gradients.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert_close(parameter.grad, gradients[name], rtol=1e-3, floor=1e-4)


def test_binary_weights_may_be_flat_or_not(golden: Golden) -> None:
    tensors = golden.under("state_dict/")
    model = from_reference(tensors)
    shapes = {rule.sources: model.state_dict()[rule.target].shape for rule in golden.family.rules(model)}
    other = dict(tensors)
    for sources, shape in shapes.items():
        for name in sources:
            if name not in tensors:  # flat in the file
                other[name] = other.pop(f"{name}s").view(shape[0] // len(sources), *shape[1:])
            elif ".binary_" in name:
                other[f"{name}s"] = other.pop(name).reshape(-1, 1)
    assert other.keys() != tensors.keys()
    state = from_reference(other).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
