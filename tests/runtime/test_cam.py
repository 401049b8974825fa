"""Class activation maps: they add up to the logits, and a network that has none says why."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bcdnet.nn as bnn
from bcdnet.compiler import export
from bcdnet.errors import BcdnetError, DataError
from bcdnet.models import build, configure
from bcdnet.program import read_program
from bcdnet.runtime import InferenceSession

PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "crop_pct": 1.0}


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8))


@pytest.mark.parametrize("label", [None, 0, "d", "5"])
def test_the_mean_of_the_map_is_the_logit_less_its_bias(packed_file, picture, label) -> None:
    session = InferenceSession(packed_file, threads=1)
    logits = session.run_images([picture])[0][0]
    index = {None: int(logits.argmax()), "d": 3, "5": 5}.get(label, label)
    bias = read_program(packed_file).tensors
    head = next(op for op in session.program.ops if op.type == "linear")
    heat = session.cam(picture, label)
    assert heat.dtype == np.float32 and heat.shape == (8, 8) and np.ptp(heat) > 0
    assert heat.mean() == pytest.approx(logits[index] - bias[head.bias][index], abs=1e-4)


@pytest.mark.parametrize("name", ["bcdnet_b_r18_small", "reactnet_b_small", "resnet18_twin_small"])
def test_networks_with_one_head_or_two_have_maps(name, tmp_path, picture) -> None:
    torch.manual_seed(0)
    model = build(configure(name, width=0.125, num_classes=4, distilled="react" in name)).eval()
    path = export(model, tmp_path / "x.bcdn", input_size=(3, 32, 32), preprocess=PREPROCESS)
    session = InferenceSession(path, threads=1)
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    logits, features = session.run_maps(x)
    np.testing.assert_array_equal(logits, session.run(None, {"image": x})[0])
    maps = session.cams(features[1], range(4))
    bias = model.head.bias if isinstance(model.head, nn.Linear) else (model.head.fc.bias + model.head.fc_dist.bias) / 2
    np.testing.assert_array_equal(session.cams(features[1], [2, 0]), maps[[2, 0]])
    np.testing.assert_allclose(maps.mean((1, 2)) + bias.detach().numpy(), logits[1], atol=1e-4)


def test_a_map_covers_the_positions_of_the_picture(tmp_path) -> None:
    """One bright square: a network that only sees brightness has its map there and nowhere else."""
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    preprocess = PREPROCESS | {"mean": [0.0] * 3, "std": [1.0] * 3}
    path = export(network.eval(), tmp_path / "x.bcdn", input_size=(3, 16, 16), preprocess=preprocess)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:8, 12:16] = 255
    heat = InferenceSession(path, threads=1).cam(pixels, 1)
    assert heat[1, 3] > 0 and np.count_nonzero(heat) == 1


def test_why_there_is_no_map(tmp_path, packed_file, picture) -> None:
    flat = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8 * 64, 4)).eval()
    path = export(flat, tmp_path / "flat.bcdn", input_size=(3, 16, 16), preprocess=PREPROCESS)
    with pytest.raises(BcdnetError, match=r"need .* one linear layer: the linear layer '2' reads reshape '1#2'"):
        InferenceSession(path).cam(picture)
    features = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), bnn.ContextualConvBlock(32, 32, 3), nn.AdaptiveAvgPool2d(1))
    path = export(nn.Sequential(features, nn.Flatten()).eval(), tmp_path / "f.bcdn", input_size=(3, 16, 16))
    with pytest.raises(BcdnetError, match=r"comes from .*, not from a linear layer"):
        InferenceSession(path).run_maps(np.zeros((1, 3, 16, 16), np.float32))
    session = InferenceSession(packed_file)
    for label, message in (("A", "no class is called 'A'"), (6, "the classes are 0 to 5"), (-1, "the classes are")):
        with pytest.raises(DataError, match=message):
            session.cam(picture, label)
