"""The rules that pyproject.toml states hold for what is really there."""

import json
import tomllib
from pathlib import Path

import bcdnet

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_names_its_importers() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    ruled = {name for contract in contracts for name in contract.get("protected_modules", [])} | {"bcdnet.cli"}
    packages = {f"bcdnet.{path.parent.name}" for path in (ROOT / "src/bcdnet").glob("*/__init__.py")}
    assert packages == ruled


def test_version_is_the_same_everywhere() -> None:
    version = PYPROJECT["project"]["version"]
    assert bcdnet.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert json.loads((ROOT / "src/bcdnet/web_assets/package.json").read_text())["version"] == version
