"""ONNX models of packed programs in ONNX Runtime, against PyTorch and the program's own oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from bcdnet.cli.main import main
from bcdnet.compiler import compile_module
from bcdnet.errors import InteropError
from bcdnet.interop.onnx import to_onnx, write_onnx
from bcdnet.nn import (
    BinaryConv2d,
    ContextualConvBlock,
    ContextualEmbedding,
    LongRangeShift,
    RPReLU,
    RSign,
    ShortRangeShift,
    Sign,
)
from bcdnet.program import Program, execute, write_program

NETWORKS = {
    "bcdnet_b_small": {"width": 0.25},
    "bcdnet_a_r18_small": {"width": 0.125},
    "mobilenet_v1_twin_small": {"width": 0.25},
    "binary_mixer": {"width": 0.125, "depth": 2, "patch_size": 8, "img_size": 32},
}


def settled(name: str, classes: int = 10) -> nn.Module:
    """A small network whose statistics and parameters are not at their initial values."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **NETWORKS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for _ in range(2):
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def run(program: Program, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(to_onnx(program).SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: images})
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_agrees_with_pytorch(name: str) -> None:
    model = settled(name)
    program = compile_module(model, input_size=(3, 32, 32))
    images = np.random.default_rng(1).standard_normal((16, 3, 32, 32), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    got = run(program, images)
    # An engine may sum real values in another order; a threshold can then fall the other way. Most images are equal.
    close = np.abs(got - expected).max(axis=1) <= 1e-4
    assert close.mean() >= 0.75 and (got.argmax(1) == expected.argmax(1)).mean() >= 0.9


class Regrouped(nn.Module):
    """Its map seen in other channels, beside what is left of it without the negative values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, C, H, W]."""
        x = x.view(x.shape[0], 2 * x.shape[1], x.shape[2] // 2, x.shape[3])
        return torch.cat([x, torch.relu(x)], 1)


LAYERS = {
    "grouped": nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), groups=2),
    "one channel": nn.Conv2d(4, 1, 1),
    "binary": nn.Sequential(RSign(4), BinaryConv2d(4, 5, 3, 2, 1)),
    "short": nn.Sequential(RSign(4), ShortRangeShift(), BinaryConv2d(4, 5, 1)),
    "long": nn.Sequential(RSign(4), LongRangeShift(), BinaryConv2d(4, 5, 1)),
    "halved": ContextualConvBlock(4, 4, 3, stride=2),
    "full": ContextualConvBlock(4, 8, 3, embedding=ContextualEmbedding(4, 8, 2, gain=True, diagonal=True)),
    "activation": RPReLU(4),
    "maximum": nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True),
    "average": nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True),
    "average counted": nn.AvgPool2d(3, (2, 3), (1, 1), ceil_mode=True),
    "average uncounted": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average of pixels": nn.AvgPool2d((3, 2), (1, 2), (1, 0), count_include_pad=False),
    "views": nn.Sequential(Regrouped(), nn.BatchNorm2d(16)),
    "vectors": nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 5), nn.BatchNorm1d(5)),
}


class Beside(nn.Module):
    """A pool's map and a convolution's, which agree in size, averaged."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool, self.conv = pool, nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, C, H, W]."""
        return (self.pool(x) + self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(1, 2, ceil_mode=True),
        nn.MaxPool2d(1, 2, ceil_mode=True),
        nn.MaxPool2d(2, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, 2, 1, ceil_mode=True),
        nn.MaxPool2d((1, 2), 2, ceil_mode=True),  # rounds up in one direction, drops in the other
    ],
)
@pytest.mark.parametrize("size", [(6, 7), (8, 6), (7, 7)])
def test_a_window_that_begins_beyond_the_map_is_dropped(pool: nn.Module, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 4, *size)
    network = Beside(pool).eval()
    if pool(images).shape != network.conv(images).shape:
        network = nn.Sequential(pool, nn.Flatten()).eval()
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(run(compile_module(network, input_size=(4, *size)), images.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_layer_has_the_operator_that_computes_it(layer: nn.Module) -> None:
    """No two of height, width, kernel, stride and padding alike that an operator could mix up."""
    torch.manual_seed(0)
    network = nn.Sequential(layer, nn.Flatten()).eval()
    images = torch.randn(3, 4, 6, 7)
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
        expected = network(images).numpy()
    np.testing.assert_allclose(run(compile_module(network, input_size=(4, 6, 7)), images.numpy()), expected, atol=1e-5)


def test_batches_of_any_size_give_the_same() -> None:
    program = compile_module(settled("bcdnet_b_small"), input_size=(3, 32, 32))
    images = np.random.default_rng(2).standard_normal((5, 3, 32, 32), np.float32)
    assert np.allclose(np.concatenate([run(program, image[None]) for image in images]), run(program, images), atol=1e-4)


def test_sign_of_zero_is_plus_one_and_padding_is_zero() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sign = RSign(3)
            self.conv = BinaryConv2d(3, 4, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(self.pool(self.conv(self.sign(x))), 1)

    torch.manual_seed(3)
    net = Net().eval()
    program = compile_module(net, input_size=(3, 5, 7))
    images = np.random.default_rng(3).integers(-1, 2, (4, 3, 5, 7)).astype(np.float32)  # a third of them zeros
    images[:, :, 0, 0] = -0.0
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    assert np.allclose(run(program, images), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["bcdnet_b_small", "binary_mixer"])
def test_it_agrees_with_the_oracle_of_programs(name: str) -> None:
    program = compile_module(settled(name), input_size=(3, 32, 32))
    images = np.random.default_rng(4).standard_normal((3, 3, 32, 32), np.float32)
    expected = np.concatenate([execute(program, image[None])[0] for image in images])
    assert (np.abs(run(program, images) - expected).max(axis=1) <= 1e-4).mean() >= 0.6


def test_the_command_writes_from_a_model_and_from_a_packed_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    program = compile_module(settled("bcdnet_b_small"), input_size=(3, 32, 32), labels=list("abcdefghij"))
    packed = write_program(program, tmp_path / "m.bcdn")
    for arguments in (
        [str(packed), "-o", str(tmp_path / "a.onnx")],
        ["bcdnet_a_small", "-o", str(tmp_path / "b"), "--format", "onnx"],
    ):
        with pytest.raises(SystemExit) as left:
            main(["export", *arguments])
        assert left.value.code == 0, capsys.readouterr().err
    model = onnx.load(tmp_path / "a.onnx")
    properties = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert properties["labels"] == list("abcdefghij")
    assert {node.domain for node in model.graph.node} == {""}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    with pytest.raises(SystemExit) as left:
        main(["export", str(packed), "-o", str(tmp_path / "c.onnx"), "--input-size", "3", "64", "64"])
    assert left.value.code == 2 and "does not say its preprocessing" in capsys.readouterr().err


def test_what_a_program_says_of_images_and_origin_stands_in_the_metadata() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    constants = {"mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "interpolation": "bicubic", "crop_pct": 0.9}
    program = compile_module(network, input_size=(3, 4, 6), preprocess=constants, provenance={"data": "letters"})
    found = {item.key: json.loads(item.value) for item in to_onnx(program).metadata_props}
    assert found == {
        "labels": [],
        "preprocess": constants | {"input_size": [3, 4, 6]},
        "provenance": {"data": "letters"},
    }


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    program = compile_module(settled("bcdnet_b_small"), input_size=(3, 32, 32))
    with pytest.raises(InteropError, match="cannot be written"):
        write_onnx(program, tmp_path)  # which is a folder
    assert list(tmp_path.iterdir()) == []


class Named(nn.Module):
    """Its one output has a name of choice."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.c = name, nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """x: [N, C, H, W]."""
        return {self.name: self.c(x).flatten(1)}


def test_outputs_keep_their_names_and_the_inputs_is_taken() -> None:
    for name in ("c/Conv_0", "c/constant_0"):
        network = Named(name).eval()
        (port,) = to_onnx(compile_module(network, input_size=(3, 4, 4))).graph.output
        assert port.name == name
    with pytest.raises(InteropError, match="output 'image': is what the input is called"):
        to_onnx(compile_module(Named("image").eval(), input_size=(3, 4, 4)))


def test_sums_of_nothing_stay_nothing() -> None:
    """A scale that an engine folded into the weight left rounding where +1 and -1 cancel, and the sign saw it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        Sign(), BinaryConv2d(3, 32, 3), Sign(), BinaryConv2d(32, 32, 3), nn.PReLU(32), Sign(), BinaryConv2d(32, 16, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    program = compile_module(model, input_size=(3, 32, 32))
    images = np.random.default_rng(0).standard_normal((16, 3, 32, 32), np.float32)
    np.testing.assert_allclose(run(program, images), execute(program, images)[0], atol=1e-6)
