"""What is committed for the browser is small and made from the sources that are here."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src/bcdnet/web_assets"


def test_the_module_is_made_from_these_sources() -> None:
    fingerprint = runpy.run_path(str(ROOT / "web/build.py"))["fingerprint"]
    made_from = json.loads((ASSETS / "build.json").read_text())["sources"]
    assert made_from == fingerprint(), "the core has changed; run: python web/build.py"


def test_the_page_is_small() -> None:
    assert (ASSETS / "bcdnet.wasm").stat().st_size <= 300_000
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) <= 600_000


def test_the_page_asks_no_other_server() -> None:
    for path in ASSETS.iterdir():
        if path.suffix != ".wasm":
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text and "https:" not in text and "//cdn" not in text, path.name
