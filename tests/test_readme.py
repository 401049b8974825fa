"""What the documentation says is true: its quick code runs, the files it points to exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A block whose info string is `sh test` or `python test` runs here as it stands.
RUNNABLE = re.findall(r"^```(sh|python) test\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]


def test_readme_has_runnable_blocks() -> None:
    assert {language for language, _ in RUNNABLE} == {"sh", "python"}


@pytest.mark.parametrize(("language", "code"), RUNNABLE)
def test_readme_block_runs(language: str, code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []
