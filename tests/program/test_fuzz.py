"""The fuzzer itself still runs: fuzz_reader.py has the rules that every mutated file is held to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parent / "fuzz_reader.py"


@pytest.mark.slow
def test_a_short_run_finds_nothing(tmp_path) -> None:
    command = [sys.executable, FUZZER, "--files", "2000", "--keep", tmp_path / "keep", "--json", tmp_path / "r.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["files"] == 2000 and result["failures"] == 0
    assert result["outcomes"]["valid, run"] > 50 and result["outcomes"]["rejected"] > 1000
