"""Compiled programs, run by the numpy executor, against PyTorch's eval mode."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import timm
import torch
from torch import nn

import bcdnet.nn as bnn
from bcdnet.compiler import compile_module, export
from bcdnet.errors import CompileError
from bcdnet.models import VARIANTS
from bcdnet.program import execute, read_program


def compare(module: nn.Module, *size: int, tolerance: float = 1e-4, images: int = 4):
    """The program, after its outputs for random images agree with the module's."""
    program = compile_module(module, input_size=size)
    torch.manual_seed(7)
    x = torch.randn(images, *size)
    with torch.no_grad():
        expected = module(x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(execute(program, x.numpy()), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=tolerance)
    return program


def types(program) -> Counter[str]:
    return Counter(op.type for op in program.ops)


def small(name: str, size: int = 32) -> dict[str, object]:
    settings: dict[str, object] = {"num_classes": 7, "width": 0.125}
    if name.startswith("binary_mixer"):
        settings |= {"img_size": size, "patch_size": 8, "depth": 2}
    return settings


@pytest.mark.parametrize("name", VARIANTS)
def test_zoo(name, prepared) -> None:
    model = prepared(timm.create_model(name, **small(name)), 3, 32, 32)
    compare(model, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 160, 224])
@pytest.mark.parametrize("name", VARIANTS)
def test_zoo_compiles_at_every_size(name, size, tmp_path) -> None:
    settings = {"img_size": size} if name.startswith("binary_mixer") else {}
    path = export(timm.create_model(name, **settings).eval(), tmp_path / "x.bcdn", input_size=(3, size, size))
    assert read_program(path).buffers[0].shape == (3, size, size)


def test_fusions_of_bcdnet_a(prepared) -> None:
    """Every step is in an epilogue: one op per convolution, and the head."""
    model = prepared(timm.create_model("bcdnet_a", **small("bcdnet_a")), 3, 32, 32)
    program = compile_module(model, input_size=(3, 32, 32))
    convolutions = sum(isinstance(module, bnn.BinaryConv2d) for module in model.modules())
    branches = [len(op.branches) for op in program.ops if op.type == "binary_conv2d"]
    assert types(program).keys() == {"conv2d", "binary_conv2d", "global_avg_pool", "linear"}
    assert sum(branches) == convolutions and branches.count(3) == 9
    assert types(program)["linear"] == 1
    shortcuts = [op.epilogue.shortcut for op in program.ops if op.type == "binary_conv2d"]
    assert all(shortcuts) and any(s.avg_pool for s in shortcuts) and any(s.duplicate for s in shortcuts)


def test_two_heads_become_their_mean(prepared) -> None:
    model = prepared(timm.create_model("bcdnet_a", **small("bcdnet_a")), 3, 32, 32)
    program = compile_module(model, input_size=(3, 32, 32))
    (op,) = [op for op in program.ops if op.type == "linear"]
    fc, fc_dist = model.head.fc, model.head.fc_dist
    mean = (fc.weight.detach().double() + fc_dist.weight.detach().double()) / 2
    np.testing.assert_array_equal(program.tensors[op.weight], mean.float().numpy())
    bias = (fc.bias.detach().double() + fc_dist.bias.detach().double()) / 2
    np.testing.assert_array_equal(program.tensors[op.bias], bias.float().numpy())


class Branches(nn.Module):
    """Two paths of different kernels, concatenated; a plain residual sum; flattening of a map with several pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.left = nn.Sequential(bnn.RSign(8), bnn.BinaryConv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(8, 4, (1, 3), padding=(0, 1), groups=2, bias=False), nn.LeakyReLU(0.1))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.fc = nn.Linear(12 * 4 * 4, 5)

    def forward(self, x):
        x = self.stem(x)
        left = self.left(x) + x
        x = self.pool(torch.cat([left, self.right(left)], dim=1))
        return self.fc(torch.flatten(x, 1))


class Twins(nn.Module):
    """Two binary convolutions of one binarised map, each with its own everything, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 1, 1)
        self.sign = bnn.Sign()
        self.convs = nn.ModuleList(bnn.BinaryConv2d(12, 12, 1) for _ in range(2))
        self.bns = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(2))
        self.acts = nn.ModuleList(bnn.RPReLU(12) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        bits = self.sign(x)
        parts = [act(bn(conv(bits)) + x) for conv, bn, act in zip(self.convs, self.bns, self.acts, strict=True)]
        return torch.cat(parts, 1).mean([2, 3])


class Perceptron(nn.Module):
    """Binary linear layers on vectors; batch normalisation in one dimension; two outputs; views by size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.first = nn.Linear(3 * 36, 20)
        self.bn = nn.BatchNorm1d(20)
        self.sign = bnn.Sign()
        self.second = bnn.BinaryLinear(20, 12)
        self.act = nn.PReLU()

    def forward(self, x):
        x = self.norm(x)
        x = self.first(x.view(x.size(0), -1))
        x = self.act(self.second(self.sign(self.bn(x))) * 0.5 + 1)
        return x, torch.relu(x)


@pytest.mark.parametrize(
    "network, size", [(Branches, (3, 15, 16)), (Twins, (3, 5, 7)), (Perceptron, (3, 6, 6))], ids=lambda v: str(v)
)
def test_networks_of_a_users_own(network, size, prepared) -> None:
    compare(prepared(network(), *size), *size, tolerance=1e-4)


def test_twins_become_one(prepared) -> None:
    program = compare(prepared(Twins(), 3, 5, 7), 3, 5, 7)
    assert types(program) == {"conv2d": 1, "binary_conv2d": 1, "global_avg_pool": 1}
    (op,) = [op for op in program.ops if op.type == "binary_conv2d"]
    assert program.tensors[op.branches[0].weight].shape[0] == 24 and op.epilogue.shortcut.duplicate


class Wrapped(nn.Module):
    """A layer between a stem and a pool, called `layer`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.layer = nn.Sequential(*layers)

    def forward(self, x):
        return self.layer(self.stem(x)).mean((2, 3))


def _step_one() -> nn.Module:
    module = nn.Sequential(bnn.Sign(), bnn.BinaryConv2d(8, 8, 1))
    bnn.set_weight_bits(module, 32)
    return module


def _hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def _hooked_within(block: nn.Module) -> nn.Module:
    _hooked(next(iter(block.children())))
    return block


class HalfSigned(nn.Module):
    """A binarised map beside a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.sign, self.conv = bnn.Sign(), bnn.BinaryConv2d(16, 8, 1)

    def forward(self, x):
        return self.conv(torch.cat([self.sign(x), x], 1))


REFUSED = {
    "step one": (_step_one, "layer.0.1: weight_bits is 32"),
    "softmax": (lambda: nn.Softmax(1), "layer.0: Softmax cannot be packed"),
    "dilation": (lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2), "layer.0: Conv2d packs with"),
    "even": (lambda: nn.Conv2d(8, 8, 2, padding="same"), "layer.0: padding 'same' with an even kernel"),
    "reflection": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "layer.0: Conv2d packs with"),
    "real input": (lambda: bnn.BinaryConv2d(8, 8, 1), "layer.0: its input is not ±1"),
    "mean of signs": (
        lambda: nn.Sequential(bnn.Sign(), nn.AvgPool2d(2), bnn.BinaryConv2d(8, 8, 1)),
        "layer.0.2: its input is not ±1",
    ),
    "slope of signs": (
        lambda: nn.Sequential(bnn.Sign(), nn.PReLU(8), bnn.BinaryConv2d(8, 8, 1)),
        "layer.0.2: its input is not ±1",
    ),
    "half of signs": (HalfSigned, "layer.0.conv: its input is not ±1"),
    "real shift": (lambda: bnn.ShortRangeShift(), "layer.0: shifts a real-valued map"),
    "shift alone": (
        lambda: nn.Sequential(bnn.Sign(), bnn.ShortRangeShift(), bnn.BinaryConv2d(8, 8, 3, 1, 1)),
        "layer.0.1: only a 1x1 binary convolution",
    ),
    "no statistics": (lambda: nn.BatchNorm2d(8, track_running_stats=False), "layer.0: keeps no running statistics"),
    "hook": (lambda: _hooked(nn.Conv2d(8, 8, 1)), "layer.0: has a forward hook"),
    "hook within": (lambda: _hooked_within(bnn.RSign(8)), "layer.0.estimator: has a forward hook"),
    "large kernel": (lambda: nn.Conv2d(8, 8, 9), "layer.0: the kernel [9, 9] is larger"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_with_path_and_reason(case) -> None:
    make, message = REFUSED[case]
    with pytest.raises(CompileError) as caught:
        compile_module(Wrapped(make()).eval(), input_size=(3, 6, 6))
    assert message in str(caught.value)


class Overridden(bnn.Sign):
    """Looks like a leaf and is not."""

    def forward(self, x):
        return -x


class MeanOfBatch(nn.Module):
    """Arithmetic on the batch size."""

    def forward(self, x):
        return x / x.shape[0]


class Doubled(nn.Module):
    """A map that is added to itself, behind what an epilogue's shortcut might do."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before

    def forward(self, x):
        y = self.before(x)
        return y + y


class Twice(nn.Module):
    """Its channels twice."""

    def forward(self, x):
        return torch.cat([x, x], 1)


@pytest.mark.parametrize("before", [nn.AvgPool2d(2), Twice(), nn.ReLU(), nn.Conv2d(8, 8, 1)])
def test_a_map_added_to_itself(before, prepared) -> None:
    compare(prepared(Wrapped(Doubled(before)), 3, 6, 6), 3, 6, 6)


class Branching(nn.Module):
    """Python control flow on data."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    "layer, message",
    [
        (Overridden(), "layer.0: Overridden overrides Sign"),
        (Branching(), "layer.0: its forward"),
        (MeanOfBatch(), "layer.0.truediv: only numbers and per-channel parameters"),
    ],
)
def test_refuses_code_of_its_own(layer, message) -> None:
    with pytest.raises(CompileError, match=message):
        compile_module(Wrapped(layer).eval(), input_size=(3, 6, 6))


class Constants(nn.Module):
    """What its forward makes of parameters and numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(1, 4, 1, 1)) for _ in range(2))
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, 3, H, W]."""
        factor = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
        x = self.conv(x) * factor + torch.add(self.first, self.second, alpha=10)
        return torch.flatten(torch.sub(self.first - x, torch.sub(self.first, self.second, alpha=3)), 1)


def test_what_is_made_of_constants_and_leaves_nothing_behind() -> None:
    module = Constants().eval()
    before = set(vars(module))
    compare(module, 3, 2, 2)
    assert set(vars(module)) == before


def test_refuses_training_mode_maps_and_sizes() -> None:
    with pytest.raises(CompileError, match="training mode"):
        compile_module(Wrapped(nn.ReLU()), input_size=(3, 6, 6))
    part = Wrapped(nn.ReLU()).eval()
    part.layer[0].train()
    with pytest.raises(CompileError, match=r"layer\.0: is in training mode"):
        compile_module(part, input_size=(3, 6, 6))
    with pytest.raises(CompileError, match="output 'logits'"):
        compile_module(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), input_size=(3, 6, 6))
    with pytest.raises(CompileError, match="input_size"):
        compile_module(Wrapped(nn.ReLU()).eval(), input_size=(3, 0, 6))


def test_the_file_holds_what_prediction_needs(tmp_path, prepared) -> None:
    module = prepared(Twins(), 3, 8, 8)
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "crop_pct": 0.875}
    labels = [f"class {i}" for i in range(24)]
    path = export(
        module, tmp_path / "x.bcdn", input_size=(3, 8, 8), labels=labels, preprocess=preprocess, provenance={"seed": 3}
    )
    program = read_program(path)
    assert list(program.labels) == labels and program.provenance == {"seed": 3}
    assert program.preprocess is not None
    assert program.preprocess.input_size == (3, 8, 8) and program.preprocess.crop_pct == 0.875
    again = export(
        module, tmp_path / "y.bcdn", input_size=(3, 8, 8), labels=labels, preprocess=preprocess, provenance={"seed": 3}
    )
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"labels": range(8)}, "labels\\[0\\]: expected a string"),
        ({"labels": "abcdefgh"}, "labels: expected a list of names, got 'abcdefgh'"),
        ({"provenance": [1]}, "provenance: expected a Mapping, got \\[1\\]"),
        ({"labels": np.array(["a", "b"])}, "labels: 2 of them for an output of 8"),
        ({"preprocess": {"interpolation": "area"}}, "preprocess.interpolation: expected one of"),
        ({"preprocess": {"crop_pct": None}}, "preprocess: mean and std are lists of numbers"),
        ({"preprocess": {"mean": 0.5}}, "preprocess: mean and std are lists of numbers"),
    ],
)
def test_what_no_reader_would_take_is_not_written(changed, message, tmp_path) -> None:
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
    arguments = {"labels": list("abcdefgh")} | changed | {"preprocess": preprocess | changed.get("preprocess", {})}
    with pytest.raises(CompileError, match=message):
        export(Wrapped(nn.ReLU()).eval(), tmp_path / "x.bcdn", input_size=(3, 6, 6), **arguments)
    assert not list(tmp_path.iterdir())


def test_results_without_names_are_counted(prepared) -> None:
    program = compile_module(prepared(Perceptron(), 3, 6, 6), input_size=(3, 6, 6))
    assert [port.name for port in program.outputs] == ["output0", "output1"]


@pytest.mark.parametrize("shape", [(64, 8, 8), (16, 3, 5)])
def test_batch_norm_has_the_constants_that_pytorch_computes_with(shape) -> None:
    """To the last bit: one that is off turns signs over where a value lies on its threshold."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(shape[0], eps=1e-3)
    for values in (layer.running_mean, layer.weight, layer.bias):
        nn.init.normal_(values)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    module, x = nn.Sequential(layer, nn.Flatten()).eval(), torch.randn(4, *shape)
    (ours,) = execute(compile_module(module, input_size=shape), x.numpy())
    np.testing.assert_array_equal(ours, module(x).detach().numpy())
