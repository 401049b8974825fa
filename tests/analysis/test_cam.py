"""Grad-CAM against the exact map of a linear head, and contributions against the branches themselves."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bcdnet.errors import BcdnetError
from bcdnet.models import build, configure

pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")

from bcdnet.analysis.cam import contributions, explain, grad_cam


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = build(configure("bcdnet_a_r18_small", width=0.25, num_classes=5, distilled=False))
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 64, 64))
    return model.eval()


def test_grad_cam_is_the_exact_map_of_a_linear_head(model) -> None:
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = torch.einsum("chw,c->hw", model.forward_features(x)[0], model.head.weight[2]).clamp_min(0)
    heat = grad_cam(model, x, 2)
    assert heat.shape == (64, 64) and heat.min() == 0 and heat.max() == pytest.approx(1, abs=1e-5)
    # Each position of the 8 x 8 map stretches over 8 x 8 pixels; their centres hold its value, almost.
    middles = heat.reshape(8, 8, 8, 8)[:, 3:5, :, 3:5].mean((1, 3))
    reference = (exact / exact.max()).numpy()
    assert np.corrcoef(middles.ravel(), reference.ravel())[0, 1] > 0.99


def test_contributions_are_what_the_branches_give(model) -> None:
    x = torch.randn(1, 3, 64, 64)
    found = contributions(model, x)
    blocks = [block for block in model.modules() if type(block).__name__ == "BinaryMLPBlock"]
    assert len(found) == len(blocks) > 0
    seen: list[torch.Tensor] = []
    handle = blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
        handle.remove()
        bits = blocks[0].binarize(seen[0])
        for name, heat in found[0].branches.items():
            output = blocks[0].convs[name](blocks[0].shifts[name](bits))
            np.testing.assert_allclose(heat, output[0].abs().mean(0).numpy(), rtol=1e-6)
    assert set(found[0].branches) == {"none", "short", "long"}
    assert sum(found[0].shares.values()) == pytest.approx(1)
    assert not any(block._forward_hooks for block in model.modules())


def test_explanation(model) -> None:
    pixels = np.random.default_rng(0).uniform(0, 1, (3, 32, 32)).astype(np.float32)
    found = explain("x", model, (pixels - 0.5) / 0.25, list("abcde"), ([0.5] * 3, [0.25] * 3))
    np.testing.assert_allclose(found.picture, pixels.transpose(1, 2, 0), atol=1e-6)
    assert found.label == found.probabilities.argmax() and found.probabilities.sum() == pytest.approx(1)
    assert found.named(found.label) == "abcde"[found.label]


@pytest.mark.parametrize("label", [None, 0, 4])
def test_the_class_that_is_asked_for_is_the_one_that_is_explained(model, label) -> None:
    x = np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float32)
    found = explain("x", model, x, [], ([0.5] * 3, [0.25] * 3), label)
    batch = torch.from_numpy(x)[None]
    with torch.no_grad():
        logits = model(batch)[0]
    asked = int(logits.argmax()) if label is None else label
    assert (found.label, found.named(found.label)) == (asked, str(asked))
    np.testing.assert_allclose(found.probabilities, logits.double().softmax(0).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(found.heat, grad_cam(model, batch, asked))
    assert not np.array_equal(found.heat, grad_cam(model, batch, (asked + 1) % 5))


def test_a_network_of_tokens_is_refused() -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=3).eval()
    with pytest.raises(BcdnetError, match=r"ends in tokens \[1, 17, 192\], not in a map"):
        grad_cam(network, torch.zeros(1, 3, 32, 32), 0)


def test_a_network_without_stages_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(BcdnetError, match="does not say which module gives its last map"):
        grad_cam(network, torch.zeros(1, 3, 8, 8), 0)
