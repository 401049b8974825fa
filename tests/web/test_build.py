"""What is committed for the browser is small and made from the sources that are here."""

import json
import re
import runpy
from pathlib import Path

from bcdnet.cli import export_web
from bcdnet.runtime.session import MOST_THREADS

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src/bcdnet/web_assets"


def test_the_module_is_made_from_these_sources() -> None:
    fingerprint = runpy.run_path(str(ROOT / "web/build.py"))["fingerprint"]
    made_from = json.loads((ASSETS / "build.json").read_text())["sources"]
    assert made_from == fingerprint(), "the core has changed; run: python web/build.py"


def test_the_command_knows_the_limits_of_the_core() -> None:
    def constant(file: str, name: str) -> int:
        found = re.search(rf"constexpr \w+ {name} = (?:int64_t\{{1\}} << )?(\d+);", (ROOT / file).read_text())
        assert found is not None, name
        return 2 ** int(found[1]) if "<<" in found[0] else int(found[1])

    page, kernels = "web/core.cc", "core/kernels/kernels.h"
    assert constant(page, "kMaxTensorBytes") == export_web.MOST_WEIGHTS
    assert constant(page, "kMaxBufferBytes") == export_web.MOST_MAPS
    assert constant(page, "kMaxIndexBytes") == export_web.MOST_INDICES
    assert constant(kernels, "kChannelPad") == export_web.CHANNEL_PAD
    assert constant(kernels, "kMaxBranches") == export_web.MOST_BRANCHES
    assert constant("core/runtime/session.cc", "kMaxThreads") == MOST_THREADS


def test_the_page_is_small() -> None:
    assert (ASSETS / "bcdnet.wasm").stat().st_size <= 300_000
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) <= 600_000


def test_the_page_asks_no_other_server() -> None:
    for path in ASSETS.iterdir():
        if path.suffix != ".wasm":
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text and "https:" not in text and "//cdn" not in text, path.name
