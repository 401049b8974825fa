"""What the documentation says is true: its quick code runs, the files it points to exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A block whose info string goes on with `test` runs here as it stands, in the order of the page.
BLOCKS = re.findall(
    r"^```(sh|python) (test|test slow)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]


def blocks(kind: str) -> list[tuple[str, str]]:
    return [(language, code) for language, found, code in BLOCKS if found == kind]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader would be, but what the commands write does not land in the repository."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def execute(language: str, code: str, folder: Path) -> None:
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("language, code", blocks("test"))
def test_quick_block_runs(language: str, code: str, folder: Path) -> None:
    execute(language, code, folder)


@pytest.mark.slow
def test_a_network_is_trained_and_deployed_as_the_page_says(folder: Path) -> None:
    for language, code in blocks("test slow"):
        execute(language, code, folder)


def test_blocks_of_both_kinds_were_found() -> None:
    assert len(blocks("test")) >= 2
    assert len(blocks("test slow")) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []
