"""PyTorch: our modules, the published networks' own arithmetic, and the files that the other engines read.

N images, C channels, H x W positions.
"""

import site
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bcdnet  # noqa: F401  registers the networks with timm
from bcdnet.compiler import export
from bcdnet.nn import BinaryConv2d, RSign, Sign, binarize_weight
from race.worker import Runner


def versions() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "isa": torch.backends.cpu.get_cpu_capability(),
    }


class ScaledConv2d(nn.Module):
    """The published arithmetic: the weights are binarised in every pass and scaled *before* a float convolution."""

    def __init__(self, conv: BinaryConv2d, surrogate: bool) -> None:
        super().__init__()
        self.conv, self.surrogate = conv, surrogate

    def forward(self, x: Tensor) -> Tensor:
        bits, scale = binarize_weight(self.conv.latent_weight)
        weight = bits * scale
        if self.surrogate:
            clipped = self.conv.latent_weight.clamp(-1, 1)
            weight = weight - clipped + clipped
        return F.conv2d(x, weight, None, self.conv.stride, self.conv.padding)


class SurrogateSign(nn.Module):
    """The published networks' sign: sign(x) - s(x) + s(x), whose gradient is that of the piecewise polynomial s.

    They compute s in evaluation too: x² + 2x on [-1, 0), 2x - x² on [0, 1), ±1 beyond.
    """

    def forward(self, x: Tensor) -> Tensor:
        clipped = x.clamp(-1, 1)
        surrogate = clipped * (2 - clipped.abs())
        return torch.sign(x) - surrogate + surrogate


def _replace(module: nn.Module, surrogate: bool) -> nn.Module:
    """Swap in the published arithmetic, in place; `surrogate`: with the estimators computed in the forward pass."""
    for name, child in module.named_children():
        if isinstance(child, BinaryConv2d):
            setattr(module, name, ScaledConv2d(child, surrogate))
        else:
            if surrogate and isinstance(child, RSign | Sign):
                child.estimator = SurrogateSign()
            _replace(child, surrogate)
    return module


def _network(name: str) -> nn.Module:
    """With random weights, and BatchNorm statistics of random images, so that activations stay of order one."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.ones_(module.weight)  # timm's ResNets begin with branches that give 0
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 224, 224))
    return model.eval()


def prepare(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """`<name>.onnx` for each float network where missing; every `.bcdn` anew, as the compiler may have changed."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(spec["threads"])
    site.addsitedir(spec["onnx_packages"])  # PyTorch's exporter needs the package onnx, which the peers bring
    for name in spec["networks"]:
        target, partial = folder / f"{name}.onnx", folder / f"{name}.onnx.partial"
        if not target.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter announces that another will take its place
                names = {"input_names": ["image"], "output_names": ["logits"]}
                torch.onnx.export(_network(name), (torch.randn(1, 3, 224, 224),), partial, dynamo=False, **names)
            partial.rename(target)
    for name in spec["packed"]:
        export(_network(name), folder / f"{name}.bcdn")
    for name, (outputs, inputs, kernel, size) in spec["layers"].items():
        conv = BinaryConv2d(inputs, outputs, kernel, 1, kernel // 2)
        layer = nn.Sequential(Sign(), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        export(layer.eval(), folder / f"{name}.bcdn", input_size=(inputs, size, size))
    return {}


@cache
def _model(network: str, arithmetic: str) -> nn.Module:
    model = _network(network)
    return model if arithmetic == "module" else _replace(model, surrogate=arithmetic == "surrogate")


def load(folder: Path, spec: dict[str, Any]) -> Runner:
    model = _model(spec["network"], spec["arithmetic"])
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32))

    def run() -> Tensor:
        torch.set_num_threads(spec["threads"])
        with torch.inference_mode():
            return model(image)

    return Runner(run)
