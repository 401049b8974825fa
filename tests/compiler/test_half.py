"""Packing with real-valued weights of float16."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bcdnet.compiler import compile_module, export, unpack
from bcdnet.errors import CompileError
from bcdnet.program import execute, read_program
from bcdnet.program.file import write_program

PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}


def rounded(module: nn.Module) -> nn.Module:
    """A copy whose real-valued kernels and matrices are those of float16."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data = layer.weight.data.half().float()
    return module


@pytest.mark.parametrize("name", ["bcdnet_a_small", "bcdnet_b_r18_small", "reactnet_r18_small"])
def test_the_file_is_that_of_the_rounded_network(name, prepared, tmp_path) -> None:
    model = prepared(timm.create_model(name, num_classes=9, width=0.125, distilled=False), 3, 32, 32)
    settings = {"input_size": (3, 32, 32), "preprocess": PREPROCESS}
    half = export(model, tmp_path / "half.bcdn", half=True, **settings)
    whole = export(model, tmp_path / "whole.bcdn", **settings)
    assert export(rounded(model), tmp_path / "rounded.bcdn", **settings).read_bytes() == half.read_bytes()
    program, before = read_program(half), read_program(whole)
    shrunk = 0
    for tensor, values in before.tensors.items():
        if values.dtype == np.float32 and values.ndim > 1:
            assert np.array_equal(program.tensors[tensor], values.astype(np.float16))
            shrunk += values.nbytes // 2
        else:
            assert np.array_equal(program.tensors[tensor], values)
    assert whole.stat().st_size - half.stat().st_size > 0.8 * shrunk > 1000
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = rounded(model)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(execute(program, images)[0], expected, rtol=0, atol=1e-4)


def test_it_stays_so_when_it_is_unpacked_and_packed_again(prepared, tmp_path) -> None:
    """Two heads too, whose mean is rounded once."""
    model = prepared(timm.create_model("bcdnet_b_r18_small", num_classes=9, width=0.125, distilled=True), 3, 32, 32)
    program = compile_module(model, input_size=(3, 32, 32), preprocess=PREPROCESS, half=True)
    mean = ((model.head.fc.weight.double() + model.head.fc_dist.weight.double()) / 2).detach().numpy()
    assert np.array_equal(program.tensors["head.weight"], mean.astype(np.float16))
    first = write_program(program, tmp_path / "first.bcdn")
    again = compile_module(unpack(read_program(first)).model, input_size=(3, 32, 32), preprocess=PREPROCESS)
    assert write_program(again, tmp_path / "again.bcdn").read_bytes() == first.read_bytes()


def test_a_weight_beyond_float16_is_named() -> None:
    layers = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(3, 2))
    module = nn.Sequential(layers).eval()
    module.head.weight.data[1, 2] = -65519.0
    with pytest.raises(CompileError, match=r"head: has a weight beyond float16's 65504; pack it without half"):
        compile_module(module, input_size=(3, 4, 4), half=True)
    module.head.weight.data[1, 2] = -65504.0
    assert compile_module(module, input_size=(3, 4, 4), half=True).tensors["head.weight"].min() == -65504


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5, 1e-7])
def test_weights_too_small_for_float16_stay_as_they_are(prepared, scale: float) -> None:
    """A kernel before a batch norm may have any scale."""
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    module, x = prepared(nn.Sequential(*layers), 3, 8, 8), torch.randn(4, 3, 8, 8)
    module[0].weight.data *= scale
    module[1].running_mean *= scale
    module[1].running_var *= scale**2
    module[1].eps *= scale**2
    with torch.no_grad():
        expected = module(x).numpy()
    (ours,) = execute(compile_module(module, input_size=(3, 8, 8), half=True), x.numpy())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


def test_numbers_near_those_of_float16_are_written_as_they_are(tmp_path) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    nn.init.constant_(module[2].weight, 1 + 2**-20)
    path = export(module, tmp_path / "near.bcdn", input_size=(3, 4, 4))
    assert (read_program(path).tensors["2.weight"] == np.float32(1 + 2**-20)).all()
