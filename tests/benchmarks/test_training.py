"""The naive network that training.py compares with computes what ours does."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training
from naive import NAIVE, naive
from torch import nn
from training import Entry, measure

from bcdnet.models import build, configure
from bcdnet.nn import ContextualEmbedding, RPReLU, RSign


@pytest.mark.parametrize("name", ["bcdnet_a_small", "bcdnet_b_r18_small"])
def test_the_same_logits_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    # In float64 the two orders of scaling and summing do not turn a sign over.
    ours = build(configure(name, width=0.125, num_classes=5)).double()
    for module in ours.modules():
        if isinstance(module, (RSign, RPReLU)):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
        if isinstance(module, ContextualEmbedding):
            for head in (module.to_alpha, module.to_beta):
                nn.init.normal_(head.weight, std=0.1)
    theirs = naive(ours)
    assert not any(type(module) in NAIVE for module in theirs.modules())
    assert list(theirs.state_dict()) == list(ours.state_dict())
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    logits = [model(images) for model in (ours, theirs)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)
    for found in logits:
        F.cross_entropy(found, labels).backward()
    gradients = [{path: parameter.grad for path, parameter in model.named_parameters()} for model in (ours, theirs)]
    for path, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][path], gradient, rtol=1e-6, atol=1e-9, msg=path)


def test_a_measurement() -> None:
    found = measure(Entry("bcdnet_a_small", 32, 2, width=0.125, classes=3, steps=2), "naive", "cpu")
    assert 0 < found["least"] <= found["seconds"] and found["peak_bytes"] > 1e6


def test_what_is_measured_outlasts_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str]] = []

    def measure_apart(entry: Entry, variant: str, device: str) -> dict[str, Any]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((entry.model, variant))
        return {"seconds": float(len(measured)), "peak_bytes": 100 * len(measured)}

    monkeypatch.setattr(training, "measure_apart", measure_apart)
    monkeypatch.setattr(sys, "argv", ["training.py", "--device", "cpu", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        training.main()
    (row,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert (row["model"], row["speed_ratio"], row["memory_ratio"]) == ("bcdnet_a", 2.0, 0.5)
    assert "| bcdnet_a, width 0.5" in (tmp_path / "README.md").read_text()
