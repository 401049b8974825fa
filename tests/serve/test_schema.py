"""The server does what its OpenAPI document says, for requests that schemathesis makes from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_the_server_keeps_to_its_document(packed_file, served, tmp_path) -> None:
    if not SCHEMATHESIS.exists():
        pytest.skip("needs schemathesis")
    with served(packed_file, "--threads", 1) as (address, process):
        # Any string of bytes is a valid body to OpenAPI, which cannot say that it must be an image.
        command = [SCHEMATHESIS, "run", f"{address}/openapi.json", "--exclude-checks", "positive_data_acceptance"]
        done = subprocess.run(
            [*command, "--max-examples", "60", "--seed", "1"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        assert process.poll() is None
