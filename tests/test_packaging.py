"""The rules that pyproject.toml states hold for what is really there."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import bcdnet

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_names_its_importers() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    ruled = {name for contract in contracts for name in contract.get("protected_modules", [])} | {"bcdnet.cli"}
    packages = {f"bcdnet.{path.parent.name}" for path in (ROOT / "src/bcdnet").glob("*/__init__.py")}
    assert packages == ruled


def test_architecture_says_what_each_package_imports() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Who may import whom")[2]
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", table, re.M)
    word = re.compile(r"`(\w+)`")
    said = {name: set(word.findall(imports)) for names, imports in rows for name in word.findall(names)}
    del said["cli"]  # which imports anything
    found = {}
    for name in said:
        files = [*ROOT.glob(f"src/bcdnet/{name}/**/*.py"), *ROOT.glob(f"src/bcdnet/{name}.py")]
        imported = {other for file in files for other in re.findall(r"^ *from bcdnet\.(\w+)", file.read_text(), re.M)}
        found[name] = imported & said.keys() - {name}
    assert found == said


def test_version_is_the_same_everywhere() -> None:
    version = PYPROJECT["project"]["version"]
    assert bcdnet.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert json.loads((ROOT / "src/bcdnet/web_assets/package.json").read_text())["version"] == version


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize("version, taken", [("0.16.0", "pinned"), ("1.0.3", "found"), ("1.3.0", "found")])
def test_a_highway_that_is_too_old_is_passed_over(tmp_path: Path, version: str, taken: str) -> None:
    for folder in ("project", "pinned", "lib/cmake/hwy"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pinned/CMakeLists.txt").write_text("add_library(hwy INTERFACE)\nmessage(STATUS pinned)\n")
    (tmp_path / "lib/cmake/hwy/hwy-config.cmake").write_text(
        "add_library(hwy::hwy INTERFACE IMPORTED)\nmessage(STATUS found)\n"
    )
    (tmp_path / "project/CMakeLists.txt").write_text(
        f"""cmake_minimum_required(VERSION 3.20)
        project(consumer NONE)
        include(CMakePackageConfigHelpers)
        write_basic_package_version_file({tmp_path}/lib/cmake/hwy/hwy-config-version.cmake
          VERSION {version} COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
        include({ROOT}/cmake/highway.cmake)"""
    )
    command = [
        "cmake",
        "-S",
        "project",
        "-B",
        "build",
        f"-DCMAKE_PREFIX_PATH={tmp_path}",
        f"-DFETCHCONTENT_SOURCE_DIR_HWY={tmp_path / 'pinned'}",
        "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert f"-- {taken}\n" in done.stdout
