"""Options reach what they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from PIL import Image

from bcdnet.cli.eval import show
from bcdnet.evaluation import evaluate_logits
from bcdnet.runtime import InferenceSession
from bcdnet.training import assess as assess_module


def test_threads_are_as_many_as_were_asked_for(packed_file, call, monkeypatch, tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    seen = []

    class Watched(InferenceSession):
        def __init__(self, path: Any, threads: int | None = None, **rest: Any) -> None:
            seen.append(threads)
            super().__init__(path, threads=threads, **rest)

    monkeypatch.setattr("bcdnet.runtime.InferenceSession", Watched)
    code, _, err = call("predict", packed_file, tmp_path / "x.png", "--threads", 3)
    assert code == 0 and seen == [3], err


def test_batches_and_devices_reach_the_evaluation(monkeypatch, call, tmp_path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"\x08" + bytes(7) + b'{"a": 1}')
    seen = []

    def assess(model: object, data: str, split: str, batch_size: int, device: torch.device) -> Any:
        seen.append((data, split, batch_size, device.type))
        return evaluate_logits(np.eye(2, dtype=np.float32), np.array([0, 1]), ["a", "b"], 1.0)

    monkeypatch.setattr(assess_module, "assess", assess)
    monkeypatch.setattr(assess_module, "pick_device", torch.device)
    options = ("--data", "digits", "--split", "train", "--batch-size", 7, "--device", "mps")
    assert call("eval", model, *options)[0] == 0
    assert seen == [("digits", "train", 7, "mps")]


def test_figures_are_kept_though_nobody_reads_them_to_their_end(packed_file, tmp_path) -> None:
    for label in "abcdef":
        (tmp_path / "data" / "test" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / "test" / label / "x.png")
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from bcdnet.cli.main import main; main()"
    words = ["eval", packed_file, "--data", tmp_path / "data", "--out", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], stdout=write, stderr=subprocess.DEVNULL, check=False)
    os.close(write)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["confusion.png", "eval.json"]


def test_the_table_has_figures_in_percent(capsys) -> None:
    logits = np.array([[1000, 0], [1000, 0]], np.float32)
    show(evaluate_logits(logits, np.array([0, 1]), ["a", "b"], 1.0), "x")
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.count("│") == 3]
    figures = {name.strip(): value.strip() for _, name, value, _ in cells}
    assert "top-5" not in figures  # of two classes
    assert figures["calibration error"] == figures["top-1"] == "50.00 %" and figures["cross-entropy"] == "500.0000"
