"""What every test may rely on: the shared data's folder, a reproducible hypothesis profile, one torch thread."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def pytest_collection_finish() -> None:
    """What the imports made stays: each later collection of garbage, one per step of a training, leaves it out."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with golden files and datasets: $BCDNET_SHARED, or `shared` beside the repository; skips where missing."""
    folder = Path(os.environ.get("BCDNET_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set BCDNET_SHARED")
    return folder


@pytest.fixture(scope="session")
def packed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small packed network with every kind of binary block, for RGB images of 16 px: classes a to f."""
    pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")
    import torch
    from torch import nn

    import bcdnet.nn as bnn
    from bcdnet.compiler import export

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), bnn.ContextualConvBlock(32, 32, 3), bnn.BinaryMLPBlock(32),
            bnn.ContextualConvBlock(32, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 6),
        ).eval()  # fmt: skip
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "crop_pct": 0.875}
    path = tmp_path_factory.mktemp("packed") / "small.bcdn"
    return export(network, path, input_size=(3, 16, 16), labels=list("abcdef"), preprocess=preprocess)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `bcdnet ARGUMENT...`: exit code, standard output, standard error."""
    from bcdnet.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine with a camera that shows a test picture; one at a time in a process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Several test processes share the cores, so each keeps to one; a test that never imports torch pays nothing."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
