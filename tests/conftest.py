"""What every test may rely on: the shared data's folder, a reproducible hypothesis profile, one torch thread."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Timing on a loaded machine says nothing about correctness, so there is no deadline. In CI the examples are the same
# on each run; elsewhere each run looks further.
settings.register_profile(
    "bcdnet",
    deadline=None,
    max_examples=30,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bcdnet")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with golden files and datasets: $BCDNET_SHARED, or `shared` beside the repository; skips where missing."""
    folder = Path(os.environ.get("BCDNET_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set BCDNET_SHARED")
    return folder


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Several test processes share the cores, so each keeps to one; a test that never imports torch pays nothing."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
