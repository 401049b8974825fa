"""A run that begins with a packed file."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bcdnet.compiler import export
from bcdnet.models import build, configure, load_model, save_model
from bcdnet.training.assess import assess
from bcdnet.training.recipe import Recipe
from bcdnet.training.run import train


def test_a_run_begins_with_what_a_packed_file_computes(
    make_recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its batch norms have no statistics; a step that does not move shows whether training sees the same network."""
    torch.manual_seed(0)
    fresh = build(configure("bcdnet_b_r18_small", width=1 / 16, num_classes=10, in_chans=1)).eval()
    labels = [str(digit) for digit in range(10)]
    constants = {"mean": [0.31], "std": [0.35], "interpolation": "bilinear", "crop_pct": 1.0}
    preprocess, provenance = {"input_size": [1, 16, 16], **constants}, {"model": "its_name", "data": "letters"}
    first = save_model(tmp_path / "x", fresh, labels=labels, preprocess=preprocess, provenance=provenance)
    packed = export(
        fresh, tmp_path / "x.bcdn", input_size=(1, 16, 16), labels=labels, preprocess=preprocess, provenance=provenance
    )
    expected = assess(first, "digits", "test", 128, torch.device("cpu"))
    still = {"name": "step", "weight_bits": 1, "iterations": 12, "batch_size": 128, "lr": 0.0}
    model = {"checkpoint": str(packed)}
    said: list[str] = []
    results = train(make_recipe(steps=[still], model=model, augment={}), say=said.append)["step"]
    assert "step: measures batch statistics, which a packed network lacks" in said
    with (tmp_path / "run" / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["event"] == "train"]
    for loss in (results["loss"], sum(losses) / len(losses)):  # 2.45 where the statistics stay at 0 and 1
        assert loss == pytest.approx(expected.loss, abs=0.1)
    trained = load_model(tmp_path / "run")
    assert trained.provenance["began_with"] == provenance
    assert (trained.provenance["model"], trained.model.config) == ("bcdnet_b_r18_small", fresh.config)
    assert len(caplog.messages) == 1 and "learned from images of mean [0.31]" in caplog.messages[0]
