"""The C library, built once, installed, and opened."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clib import Library

ROOT = Path(__file__).parents[2]


def run_cmake(*words: object) -> None:
    done = subprocess.run(["cmake", *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
    if "needs nlohmann_json" in done.stderr:
        pytest.skip("nlohmann_json is not installed")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `cmake --install` filled."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    prefix = tmp_path_factory.mktemp("installed")
    run_cmake("--preset", "library")
    run_cmake("--build", "--preset", "library", "--parallel")
    run_cmake("--install", ROOT / "build" / "library", "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def library(installed: Path) -> Library:
    (path,) = installed.glob("lib*/libbcdnet.so") if os.name == "posix" else installed.glob("bin/bcdnet.dll")
    return Library(path)
