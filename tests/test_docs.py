"""The site of the documentation builds without a warning, and shows no fence as text."""

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bcdnet.data import AugmentConfig, DataConfig
from bcdnet.models.mixer import mixer_config
from bcdnet.models.mobilenet import mobilenet_config
from bcdnet.models.resnet import resnet_config
from bcdnet.training.recipe import Recipe, StepConfig, TeacherConfig, TrainerConfig, ValidationConfig

ROOT = Path(__file__).parents[1]


def test_every_setting_of_a_network_is_explained() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    explained = {
        key for row in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
    }
    families = (mixer_config, mobilenet_config, resnet_config)
    settings = {name for family in families for name in inspect.signature(family).parameters}
    assert len(settings) > 10 and settings <= explained


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert "bcdnet export-web" in pages[tmp_path / "cli/index.html"]
    assert "InferenceSession" in pages[tmp_path / "api/index.html"]
    sections = (Recipe, DataConfig, AugmentConfig, StepConfig, TeacherConfig, ValidationConfig, TrainerConfig)
    keys = [f"<td><code>{field.name}</code></td>" for section in sections for field in dataclasses.fields(section)]
    assert [key for key in keys if key not in pages[tmp_path / "recipes/index.html"]] == []
    assert [path for path, text in pages.items() if "```" in text] == []
