"""Chromium, and a page exported for a small trained-looking network."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcdnet.cli.export_web import write_site


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed BCDNet-B for 48 pixels with ten named classes, its statistics moved off their initial values."""
    pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")
    import timm
    import torch

    from bcdnet.compiler import export

    torch.manual_seed(0)
    model = timm.create_model("bcdnet_b_small", num_classes=10, width=0.125)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model(torch.randn(16, 3, 48, 48))
    preprocess = {
        "input_size": [3, 48, 48], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic", "crop_pct": 0.875,
    }  # fmt: skip
    return export(
        model.eval(),
        tmp_path_factory.mktemp("packed") / "small.bcdn",
        input_size=(3, 48, 48),
        labels=[f"class {i}" for i in range(10)],
        preprocess=preprocess,
    )


@pytest.fixture(scope="session")
def site(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder of the small network."""
    folder = tmp_path_factory.mktemp("site")
    write_site(packed, folder)
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where that folder is served."""
    handler = functools.partial(_Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened and ready; anything that it logs as an error fails the test."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{address}/index.html")
    page.wait_for_selector("#choose:enabled")
    yield page
    page.close()
    assert problems == []
