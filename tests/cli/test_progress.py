"""The bar of `bcdnet predict` on a terminal, beside results that go elsewhere."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_bar_on_the_terminal_takes_no_result_from_a_file(packed_file: Path, tmp_path: Path) -> None:
    """rich's took all of them: the file stayed empty."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    main, terminal = os.openpty()
    for option in ("--csv", "--json"):
        command = [sys.executable, "-m", "bcdnet", "predict", str(packed_file), str(tmp_path / "a.png"), option]
        with (tmp_path / "results").open("w") as file:
            subprocess.run(command, stdout=file, stderr=terminal, check=True)
        with (tmp_path / "results").open() as file:
            rows = list(csv.DictReader(file)) if option == "--csv" else json.load(file)
        assert {row["file"] for row in rows} == {str(tmp_path / "a.png")}
    assert b"\x1b[" in os.read(main, 10_000)  # there was a bar
    os.close(terminal)
    os.close(main)
