"""What the documentation says is true: its quick code runs, the files it points to exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A block whose info string goes on with `test` runs here as it stands, in the order of its page.
BLOCK = re.compile(r"^```(sh|python) (test|test slow)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
# Pages that mkdocs makes out of what the commands say of themselves.
GENERATED = {"cli.md"}


def blocks(page: Path, kind: str) -> list[tuple[str, str]]:
    return [(language, code) for language, found, code in BLOCK.findall(page.read_text()) if found == kind]


def told(page: Path) -> str:
    return str(page.relative_to(ROOT))


QUICK = [(page, *block) for page in PAGES for block in blocks(page, "test")]
LONG = [page for page in PAGES if blocks(page, "test slow")]


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


@pytest.mark.parametrize("page, language, code", QUICK, ids=[told(page) for page, *_ in QUICK])
def test_quick_block_runs(page: Path, language: str, code: str, folder: Path) -> None:
    execute(language, code, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", LONG, ids=told)
def test_what_a_page_says_works_from_its_beginning_to_its_end(page: Path, folder: Path) -> None:
    for language, code in blocks(page, "test slow"):
        execute(language, code, folder)


def test_blocks_of_both_kinds_were_found() -> None:
    assert len(QUICK) >= 4
    assert len(LONG) >= 5


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [
        target
        for target in targets
        if "://" not in target and target not in GENERATED and not (page.parent / target).exists()
    ]
    assert missing == []
