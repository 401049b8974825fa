"""`bcdnet card` on a small run."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from bcdnet.cli import card
from bcdnet.cli.card import _augmentation, _origin, _teacher
from bcdnet.cli.main import main
from bcdnet.models import load_model
from bcdnet.runtime import InferenceSession
from bcdnet.training.recipe import TeacherConfig
from bcdnet.training.recipe_file import load_recipe, resolve
from bcdnet.training.run import train

pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    step = {"iterations": 2, "batch_size": 64, "lr": 1e-3}
    recipe = {
        "name": "tiny",
        "run_dir": str(folder),
        "model": {"name": "bcdnet_b_r18_small", "width": 1 / 16, "mlp_blocks": 3, "layers": [1, 1, 1, 2]},
        "data": {"path": "digits", "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35]},
        "augment": {"crop": "pad", "padding": 2},
        "steps": [{"name": "step1", **step}, {"name": "step2", "weight_bits": 1, **step}],
        "trainer": {"accelerator": "cpu"},
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["bcdnet", "train", "tiny.yaml", "--resume", "seed=0"])
        train(resolve(recipe), say=lambda message: None)
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in ("card", *words)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out + captured.err


def test_a_card_says_what_was_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", "digits", "--data-licence", "CC BY 4.0", "--data-title", "Digits", "--out", tmp_path / "w")
    code, said = call(capsys, run, "tiny_digits", *options)
    assert code == 0 and "tiny_digits.bcdn" in said
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["tiny_digits.bcdn", "tiny_digits.md"]
    packed = tmp_path / "w" / "tiny_digits.bcdn"
    text = packed.with_suffix(".md").read_text()
    assert 'InferenceSession("tiny_digits.bcdn")' in text and "`bcdnet eval tiny_digits.bcdn --data DIR`" in text
    result = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": "Digits", "type": "digits", "split": "test"}
    top1 = [metric["value"] for metric in result["metrics"]]
    assert top1[0] == top1[1] and f"| top-1 | {top1[0]:.2f} % | {top1[1]:.2f} % |" in text
    assert "Licence of the data: CC BY 4.0" in text and f"{packed.stat().st_size:,} bytes" in text
    assert "| step2 | 1 bit | 1 | 64 | adamw, 0.001, cosine |" in text and "crop pad, padding 2" in text
    assert "`bcdnet_b_r18_small width=0.0625 mlp_blocks=3 layers=[1, 1, 1, 2]`, trained on Digits" in text
    assert "\nbcdnet train tiny.yaml seed=0\n" in text  # there is nothing to resume elsewhere
    session = InferenceSession(packed, threads=1)
    assert session.provenance["data"] == "digits" and session.labels == tuple("0123456789")
    assert ("with changed files" in text) == bool((session.provenance["git"] or {}).get("dirty"))
    assert str(run.parent) not in text and str(run.parent) not in str(session.provenance)


def test_a_card_names_the_networks_that_helped(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(run / "recipe.yaml")
    again = replace(
        recipe,
        run_dir=str(tmp_path / "again"),
        model=replace(recipe.model, checkpoint=str(run)),
        teacher=TeacherConfig(checkpoint=str(run / "model.safetensors")),
        steps=recipe.steps[1:],
    )
    train(again, say=lambda message: None)
    options = ("--data", "digits", "--data-licence", "CC BY 4.0", "--out", tmp_path / "w")
    assert call(capsys, tmp_path / "again", "again", *options)[0] == 0
    text = (tmp_path / "w" / "again.md").read_text()
    top1 = json.loads((run / "metrics.json").read_text())["step2"]["top1"]
    assert "It began with the weights of bcdnet_b_r18_small, trained on digits." in " ".join(text.split())
    assert f"Teacher: bcdnet_b_r18_small, {top1:.2f} % itself." in text
    third = replace(again, run_dir=str(tmp_path / "third"), model=replace(again.model, checkpoint=again.run_dir))
    train(third, say=lambda message: None)
    network = "bcdnet_b_r18_small, trained on digits"
    assert _origin(load_model(tmp_path / "third").provenance).endswith(
        f"{network} (taught by bcdnet_b_r18_small), which began with those of {network}."
    )
    assert str(run.parent) not in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("results", "reached"), [({"top1": 71.5}, ", 71.50 % itself"), ({"accuracy": 0.9}, ""), ("good", ""), (None, "")]
)
def test_a_teachers_figures_may_be_anything(results: Any, reached: str) -> None:
    """They are what a foreign file says of itself."""
    found = SimpleNamespace(provenance={"taught_by": {"model": "twin", "results": results}})
    card: Any = SimpleNamespace(recipe=SimpleNamespace(teacher=TeacherConfig(checkpoint="x")), figures={}, found=found)
    assert _teacher(card) == f"Teacher: twin{reached}."
    card.recipe.teacher = TeacherConfig(checkpoint="x", image_size=96)
    assert _teacher(card) == f"Teacher: twin{reached}, which sees images of 96 pixels."


def test_mistakes_are_one_line_and_leave_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--data-licence", "none", "--out", tmp_path / "w")
    for words, message in (
        ((run, "no-name", "--data", "digits"), "is no name"),
        ((run, "name", "--data", "cifar10"), "was trained on digits, not on cifar10"),
        ((tmp_path, "name", "--data", "digits"), "not the folder of a finished run"),
        ((run, "name", "--data", "digits", "--split", "none"), "no split 'none'"),
    ):
        code, said = call(capsys, *words, *options)
        assert code == 2 and message in said and said.count("\n") == 1
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    for text in ("{", "{}", '{"step1": {"epochs": 1, "top1": "x"}}'):
        (damaged / "metrics.json").write_text(text)
        code, said = call(capsys, damaged, "name", "--data", "digits", *options)
        assert code == 2 and "metrics.json: damaged" in said and said.count("\n") == 1
    assert not list((tmp_path / "w").glob("*"))  # pathlib's * takes hidden files in
    monkeypatch.setattr(card, "render", Mock(side_effect=KeyError("command")))
    (tmp_path / "w").mkdir(exist_ok=True)
    (tmp_path / "w" / "name.bcdn").write_text("an earlier one")
    with pytest.raises(KeyError):
        card.run(str(run), "name", "digits", "none", out=tmp_path / "w")
    assert [path.read_text() for path in (tmp_path / "w").iterdir()] == ["an earlier one"]


def test_a_steps_own_augmentation_is_told(run: Path) -> None:
    recipe = load_recipe(run / "recipe.yaml")
    assert _augmentation(recipe) == "crop pad, padding 2"
    first, second = recipe.steps
    mixed = replace(second, augment=replace(second.augment, cutmix=1.0))
    told = _augmentation(replace(recipe, steps=(first, mixed)))
    assert told == "step1: crop pad, padding 2; step2: crop pad, padding 2, cutmix 1.0"
