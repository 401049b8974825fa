"""Accuracy, calibration and the command `bcdnet eval`, against plain numpy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bcdnet.cli.main import app
from bcdnet.data import DataConfig, preprocess_of
from bcdnet.errors import DataError
from bcdnet.models import build, configure, save_model
from bcdnet.training.assess import assess
from bcdnet.training.evaluate import evaluate

NAMES = ["zero", "one", "two", "three", "four", "five", "never"]


class Lookup(nn.Module):
    """Pixel value i -> row i of a table of logits."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x[:, 0, 0, 0].long()]


def test_figures_equal_those_of_plain_numpy() -> None:
    generator = np.random.default_rng(0)
    images, classes = 200, len(NAMES)
    logits = generator.normal(size=(images, classes)).astype(np.float32) * 2
    labels = generator.integers(0, classes - 1, images)
    pixels = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1)
    batches = [(pixels[i : i + 64], torch.tensor(labels[i : i + 64])) for i in range(0, images, 64)]
    model = Lookup(torch.tensor(logits))
    model.norm.eval()
    result = evaluate(model, batches, lambda x: x, NAMES, torch.device("cpu"))
    assert model.training and not model.norm.training

    ranks = (-logits).argsort(1)
    hit = ranks[:, 0] == labels
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence = probabilities.max(1)
    assert result.images == images
    assert result.top1 == pytest.approx(100 * hit.mean(), abs=1e-4)
    assert result.top5 == pytest.approx(100 * (ranks[:, :5] == labels[:, None]).any(1).mean(), abs=1e-4)
    assert result.loss == pytest.approx(-np.log(probabilities[range(images), labels]).mean(), rel=1e-5)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(hit[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert result.ece == pytest.approx(sum(gaps), abs=1e-5)
    assert result.per_class["two"] == pytest.approx(100 * hit[labels == 2].mean())
    assert result.per_class["never"] is None
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, ranks[:, 0]), 1)
    assert (result.confusion.numpy() == confusion).all()


def test_top_5_of_three_classes_is_all() -> None:
    model = Lookup(torch.eye(3))
    batch = (torch.tensor([0, 1, 2], dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor([0, 1, 0]))
    result = evaluate(model, [batch], lambda x: x, ["a", "b", "c"], torch.device("cpu"))
    assert (result.top1, result.top5) == (pytest.approx(200 / 3, abs=1e-4), 100)


def saved(path: Path, labels: list[str]) -> Path:
    torch.manual_seed(0)
    model = build(configure("reactnet_r18_small", width=1 / 16, num_classes=len(labels), in_chans=1))
    config = DataConfig("digits", 16, mean=(0.3,), std=(0.35,), channels=1)
    save_model(path, model, labels=labels, preprocess=preprocess_of(config), provenance={})
    return path


def test_the_command_on_a_run_folder(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors", [str(digit) for digit in range(10)])
    runner = CliRunner()
    result = runner.invoke(app, ["eval", str(tmp_path), "--data", "digits", "--json"], catch_exceptions=False)
    figures = json.loads(result.stdout)
    assert figures["images"] == 360
    assert 0 <= figures["top1"] <= figures["top5"] <= 100
    assert 0 <= figures["ece"] <= 1
    assert figures["images_per_second"] > 0
    assert list(figures["per_class"]) == [str(digit) for digit in range(10)]
    assert json.loads((tmp_path / "eval.json").read_text()) == figures
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")

    arguments = ["eval", str(tmp_path / "model.safetensors"), "--data", "digits", "--split", "train"]
    result = runner.invoke(
        app, [*arguments, "--out", str(tmp_path / "out"), "--batch-size", "100"], catch_exceptions=False
    )
    assert "1,437" in result.stdout and "calibration error" in result.stdout
    assert (tmp_path / "out" / "confusion.png").is_file()


def test_other_classes_than_the_models_are_refused(tmp_path: Path) -> None:
    three = saved(tmp_path / "three.safetensors", ["a", "b", "c"])
    with pytest.raises(DataError, match="knows 3 classes, digits has 10: not the data of this model"):
        assess(three, "digits", "test", 64, torch.device("cpu"))
    from bcdnet.training.assess import check_classes

    with pytest.raises(DataError, match="class 1 is 'b' in model, 'c' in data"):
        check_classes(["a", "b", "c"], ["a", "c", "b"], "model", "data")
    check_classes(["a", "b"], ["0", "1"], "model", "data")  # numbered classes have no names to compare
