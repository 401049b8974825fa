"""The site of the documentation builds without a warning, and shows no fence as text."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert "bcdnet export-web" in pages[tmp_path / "cli/index.html"]
    assert "InferenceSession" in pages[tmp_path / "api/index.html"]
    assert [path for path, text in pages.items() if "```" in text] == []
