"""What a module computes out of the compiler's sight is refused, never packed as something else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.nn import BinaryConv2d, ContextLinear, RSign, Sign, SpatialMean
from bcdnet.nn.sign import ESTIMATORS
from bcdnet.program.reference import execute


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def packed(module: nn.Module) -> Any:
    return compile_module(module, input_size=(3, 4, 4))


def _centred(self: nn.Conv2d, x: Any, weight: Any, bias: Any) -> Any:
    return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Standardised(nn.Conv2d):
    """Weight standardisation, in the method where torch's convolution computes."""

    _conv_forward = _centred


def test_a_convolution_that_computes_otherwise() -> None:
    with pytest.raises(CompileError, match=r"^1: Standardised overrides Conv2d._conv_forward"):
        packed(network(Standardised(8, 8, 1)))
    module = network(nn.Conv2d(8, 8, 1))
    module[1]._conv_forward = MethodType(_centred, module[1])
    with pytest.raises(CompileError, match=r"^1: its _conv_forward was replaced on the instance"):
        packed(module)


def test_a_layer_is_what_its_weight_is() -> None:
    """Surgery may leave the layer's numbers as they were; PyTorch computes with the weight alone."""
    module, x = (
        network(nn.Conv2d(1, 1, 1, padding="same", bias=False), Sign(), BinaryConv2d(1, 1, 1)),
        torch.randn(2, 3, 6, 6),
    )
    module[1].weight, module[3].latent_weight = (nn.Parameter(torch.randn(8, 8, k, 5)) for k in (3, 2))
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(execute(compile_module(module, input_size=(3, 6, 6)), x.numpy())[0], expected, atol=1e-5)


class Estimator(nn.Module):
    """A sign of the user's own."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.parametrize("layer", [Sign, lambda: RSign(8)])
def test_an_estimator_that_is_no_sign(layer: Callable[[], nn.Module]) -> None:
    module = network(layer(), BinaryConv2d(8, 8, 1))
    for function in (torch.sign, torch.tanh, lambda x: torch.where(x > 0, 1.0, -1.0)):
        module[1].estimator = Estimator(function).eval()
        with pytest.raises(CompileError, match=r"^1: its estimator's forward is not sign\(x\) with sign\(0\) = 1"):
            packed(module)
    module[1].estimator = Estimator(lambda x: torch.where(x >= 0, 1.0, -1.0) + x.tanh() - x.tanh().detach()).eval()
    packed(module)
    for estimator in ESTIMATORS.values():
        module[1].estimator = estimator().eval()
        packed(module)


class Restless(nn.Module):
    """Another result each time it is called."""

    def __init__(self, count: Callable[[Any], Any] | None) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("calls", torch.zeros(8, 1, 1))

    def forward(self, x: Any) -> Any:
        if self.count is None:
            return x + torch.randn(8, 1, 1)
        self.calls = self.count(self.calls)
        return x + self.calls


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (lambda calls: calls.add_(1), "1.calls: is changed by"),
        (lambda calls: calls + 1, "1.calls: is changed by"),
        (None, "1: its forward cannot be traced: it draws random numbers"),
    ],
)
def test_a_forward_that_is_no_function(count: Callable[[Any], Any] | None, message: str) -> None:
    with pytest.raises(CompileError, match=f"^{message}"):
        packed(network(Restless(count)))


class Asks(nn.Module):
    """Does something else with what is no tensor."""

    def forward(self, x: Any) -> Any:
        return x * 2 if hasattr(x, "decode") or getattr(x, "mask", None) is not None or not hasattr(x, "mean") else x


def test_a_forward_that_asks_what_its_input_has() -> None:
    module, x = network(Asks()), torch.randn(2, 3, 4, 4)
    np.testing.assert_allclose(execute(packed(module), x.numpy())[0], module(x).detach().numpy(), atol=1e-6)


class Knowing(nn.Module):
    """Finds out that it is traced."""

    def __init__(self, scale: Callable[[Any, Any], int]) -> None:
        super().__init__()
        self.scale, self.same = scale, nn.Identity()

    def forward(self, x: Any) -> Any:
        return x * self.scale(x, self.same(x))


class Counting(nn.Module):
    """Where no buffer tells of it."""

    calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x * self.calls


class Coarse(nn.Sequential):
    """Has a precision of its own."""

    def forward(self, x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Knowing(lambda x, _: 1 if isinstance(x, torch.Tensor) else 2),
        lambda: Knowing(lambda x, same: 1 if x is same else 2),
        lambda: Coarse(nn.Conv2d(8, 8, 1)),
        Counting,
    ],
)
def test_a_forward_that_computes_otherwise_while_it_is_traced(layer: Callable[[], nn.Module]) -> None:
    """Silently, a branch was packed that PyTorch never takes."""
    module, failing = network(layer()), network(Knowing(lambda x, _: [1][isinstance(x, torch.Tensor)]))
    state = torch.get_rng_state()
    with pytest.raises(CompileError, match=r"^the module: computes something else than a trace of it"):
        packed(module)
    with pytest.raises(CompileError, match=r"^the module: its forward fails on an image: list index out of range"):
        packed(failing)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_forward_that_changes_what_torch_keeps_no_version_of() -> None:
    """Tensors made in inference mode, and parameters, of which tracing records what is done to them."""
    with torch.inference_mode():
        module, binary = network(Restless(lambda calls: calls.add_(1))), network(RSign(8), BinaryConv2d(8, 8, 1))
        packed(binary)
    packed(binary)
    with pytest.raises(CompileError, match=r"^1: its forward cannot be traced: Inplace update to inference tensor"):
        packed(module)
    module = network(Restless(None))
    module[1].scale = nn.Parameter(torch.ones(8, 1, 1))
    for change in (lambda scale: scale.mul_(2), lambda scale: operator.imul(scale.view(8, 1, 1), 2)):
        module[1].forward = lambda x, change=change: x * change(module[1].scale)
        with pytest.raises(CompileError, match=r"^1\.scale: is changed by the module's forward; a packed program"):
            packed(module)


def test_random_numbers_of_another_thread_are_its_own() -> None:
    """As of a training that goes on."""
    done = Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(8)

    thread = Thread(target=draw)
    thread.start()
    try:
        packed(network(nn.BatchNorm2d(8)))
    finally:
        done.set()
        thread.join()


class Interrupted(nn.Module):
    """Does something else while it is traced."""

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def forward(self, x: Any) -> Any:
        self.meanwhile()
        return x


def test_another_thread_computes_what_it_always_does() -> None:
    """Modules of its own, and the very one that is traced."""
    images, found = torch.randn(2, 3, 4, 4), []
    own = network(nn.BatchNorm2d(8), RSign(8), BinaryConv2d(8, 8, 1))

    def compute() -> None:
        found.extend(other.submit(module, images).result() for module in (own, traced))

    with ThreadPoolExecutor(1) as other:
        traced = network(RSign(8), BinaryConv2d(8, 8, 1))
        expected = [own(images), traced(images)]
        packed(nn.Sequential(traced[0], Interrupted(compute), traced[1:]).eval())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[:2], expected, strict=True))


def test_two_threads_trace_one_after_the_other() -> None:
    """Each puts torch back as it found it, which was once as the other had left it."""
    begun, go_on, call, later = Event(), Event(), nn.Module.__call__, []
    second = network(Interrupted(lambda: (begun.set(), go_on.wait(10))), Sign(), BinaryConv2d(8, 8, 1))
    with ThreadPoolExecutor(1) as other:
        packed(network(Interrupted(lambda: (later.append(other.submit(packed, second)), begun.wait(0.2)))))
        go_on.set()
        later[0].result()
    assert nn.Module.__call__ is call


class Scaled(nn.Module):
    """A vector of a context times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.mean, self.linear, self.factor = SpatialMean(), ContextLinear(8, 300), factor

    def forward(self, x: Any) -> Any:
        return self.linear(self.mean(x)) * self.factor


@pytest.mark.parametrize("factor", [0.5, -4.0, 0.3])
def test_a_scaled_context_is_the_same_to_the_last_bit(factor: float) -> None:
    """Folded into the matrix, a factor that is no power of two rounded otherwise."""
    module, x = nn.Sequential(Scaled(factor)).eval(), torch.randn(4, 8, 5, 5)
    with torch.no_grad():
        expected = module(x).numpy()
    program = compile_module(module, input_size=(8, 5, 5))
    assert np.array_equal(execute(program, x.numpy())[0], expected)
