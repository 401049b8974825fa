"""The load test runs from start to end and writes its results folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve.py"


@pytest.mark.slow
def test_a_short_run(packed_file, tmp_path) -> None:
    command = [sys.executable, SCRIPT, packed_file, "--seconds", "1", "--soak", "10", "--out", tmp_path / "out"]
    done = subprocess.run([*command, "--serve", "--threads 1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "out" / "results.json").read_text()
    results = json.loads(text)
    assert [row["connections"] for row in results["loads"]] == [1, 8, 64]
    for row in results["loads"]:
        assert row["images"] > 0 and row["p50_ms"] <= row["p99_ms"] and not row["refused"]
        assert 1 <= row["images_per_batch"] <= 16
    assert results["soak"]["resident_mb"]["least"] > 10 and len(results["soak"]["samples"]) >= 2
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| 64 |" in page and "python benchmarks/serve.py small.bcdn" in page
    assert str(packed_file.parent) not in text + page
