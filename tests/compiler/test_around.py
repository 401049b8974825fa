"""What is around a network when it is packed: wrappers, a training that goes on, maps that a forward keeps."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.nn import BinaryConv2d, RPReLU, RSign
from bcdnet.program import Program, execute, to_json

SIZE = (3, 8, 8)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), RPReLU(4), RSign(4), BinaryConv2d(4, 4, 1), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


def check_equal(found: Program, expected: Program) -> None:
    assert to_json(found) == to_json(expected) and found.tensors.keys() == expected.tensors.keys()
    assert all(np.array_equal(found.tensors[name], value) for name, value in expected.tensors.items())


def test_a_program_stays_what_it_is_while_the_model_learns_on(prepared) -> None:
    """It once shared thresholds, slopes and kernels with the model, and followed half of each step."""
    model = prepared(network(), *SIZE)
    program = compile_module(model, input_size=SIZE)
    images = np.random.default_rng(0).standard_normal((2, *SIZE), np.float32)
    (before,) = execute(program, images)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.add_(1)
    assert np.array_equal(execute(program, images)[0], before)


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, AveragedModel, lambda m: AveragedModel(torch.compile(m))]
)
def test_wrappers_are_left_out(wrap: Callable[[nn.Module], Any], prepared) -> None:
    model = prepared(network(), *SIZE)
    check_equal(compile_module(wrap(model).eval(), input_size=SIZE), compile_module(model, input_size=SIZE))


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # which newer versions call deprecated
def test_torchscript_is_refused_as_what_it_is(prepared) -> None:
    model = prepared(network(), *SIZE)
    with pytest.raises(CompileError, match="the module: is TorchScript"):
        compile_module(torch.jit.trace(model, torch.randn(1, *SIZE)), input_size=SIZE)


class Keeps(nn.Module):
    """Keeps a map for whoever asks, counts its calls and makes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.last: torch.Tensor | None = None
        self.calls, self.by_name = 0, {"last": None}
        self.register_buffer("kept", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.kept = self.by_name["last"] = x + torch.ones(1)
        self.calls += 1
        self.body[0].seen = self.last
        result: torch.Tensor = self.body(self.last)
        return result


def test_a_module_is_left_as_it_was(prepared) -> None:
    """What tracing passes through a forward once stayed where the forward had put it, and could not be saved."""
    model = prepared(Keeps(), *SIZE)
    seen, model.kept, model.by_name = model.body[0].seen, None, {"last": None}
    before = copy.deepcopy({name: value for name, value in vars(model).items() if not name.startswith("_")})
    compile_module(model, input_size=SIZE)
    assert model.body[0].seen is seen and torch.equal(model.last, before.pop("last"))
    assert {name: vars(model)[name] for name in before} == before
    assert model.kept is None
    torch.save(model.state_dict(), io.BytesIO())
    assert not [name for name in vars(model) if name.startswith("_tensor_constant")]


@pytest.mark.parametrize("size", [8, None, "388", (3, 8), (3, 8.0, 8.5), (3, 0, 8)])
def test_a_size_that_is_none(size: Any, prepared) -> None:
    with pytest.raises(CompileError, match=r"input_size: expected \(channels, height, width\), each at least 1, got "):
        compile_module(prepared(network(), *SIZE), input_size=size)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(1, 4, 3), nn.Flatten()], "0: is made for 1 channels, but its input has 3"),
        ([nn.Flatten(), nn.Linear(75, 2)], "1: is made for 75 channels, but its input has 192"),
        ([RSign(4), nn.Flatten()], "0: is made for 4"),
        ([RPReLU(4), nn.Flatten()], "0: is made for 4"),
        ([nn.BatchNorm2d(4), nn.Flatten()], "0: is made for 4"),
        ([RSign(3), BinaryConv2d(4, 4, 1), nn.Flatten()], "1: is made for 4"),
    ],
)
def test_images_of_another_size_than_the_networks(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(CompileError, match=message + r".*; is input_size=\(3, 8, 8\) that of the images\?"):
        compile_module(nn.Sequential(*layers).eval(), input_size=SIZE)


def test_weights_that_are_not_there() -> None:
    with torch.device("meta"):
        model = network().eval()
    with pytest.raises(CompileError, match=r"0\.weight: is on torch's meta device"):
        compile_module(model, input_size=SIZE)
    with pytest.raises(CompileError, match=r"0\.weight: has no shape yet; call the module on an image first"):
        compile_module(nn.Sequential(nn.LazyConv2d(4, 1)).eval(), input_size=SIZE)
    with pytest.raises(CompileError, match=r"module: expected a Module, got 'bcdnet_b'"):
        compile_module("bcdnet_b", input_size=SIZE)


def test_a_layer_that_is_not_registered(prepared) -> None:
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body[1:](self.body[0](x))

    with pytest.raises(CompileError, match=r"^the module: .* Sequential is no submodule; make it in __init__"):
        compile_module(prepared(Slices(), *SIZE), input_size=SIZE)


def test_another_crop_than_the_centres(prepared) -> None:
    values = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 0.9}
    model = prepared(network(), *SIZE)
    compile_module(model, input_size=SIZE, preprocess={**values, "crop_mode": "center"})
    with pytest.raises(CompileError, match="crop_mode 'squash'"):
        compile_module(model, input_size=SIZE, preprocess={**values, "crop_mode": "squash"})


def test_a_network_of_two_inputs_is_refused() -> None:
    class Difference(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).flatten(1)

    class First(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    for module in (Difference(), First()):
        with pytest.raises(CompileError, match="the module: takes 2 inputs; a packed program has one, the image"):
            compile_module(module.eval(), input_size=SIZE)
