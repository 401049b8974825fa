"""The comparison's table and figure from result files."""

import json
import shutil
import sys
from pathlib import Path

import campaign
import pytest

from bcdnet.training.recipe_file import load_recipe, to_yaml

ROOT = Path(__file__).resolve().parents[2]

TOP1 = {"reactnet-s0": 80.0, "reactnet-s1": 82.0, "bcdnet_a-s0": 84.5, "no_shift-s0": 81.0}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Result files as runs leave them, and one run that is not finished."""
    for name, top1 in TOP1.items():
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        words = ["data.path=/elsewhere/cifar10", f"run_dir={run}", f"seed={name[-1]}", "model.embedding=none"]
        words += ["model.mlp_blocks=0"] if name.startswith("reactnet") else []
        (run / "recipe.yaml").write_text(to_yaml(load_recipe(ROOT / "recipes" / "cifar10_cpu.yaml", words)))
        machine = {"processor": "a CPU", "gpus": []}
        environment = {
            "seed": int(name[-1]),
            "command": "bcdnet train data.path=/elsewhere/cifar10 run_dir=/elsewhere/runs/first",
            "machine": machine,
        }
        environment |= {"git": None, "versions": {"torch": "2.0"}}
        step = {"top1": top1 - 1, "epochs": 3, "train_seconds": 1800.0}
        evaluated = {"top1": top1, "ece": 0.05, "images": 10_000, "per_class": dict.fromkeys("abcdefghij")}
        files = {"environment": environment, "metrics": {"step1": step, "step2": step}, "eval": evaluated}
        for file, content in files.items():
            (run / f"{file}.json").write_text(json.dumps(content))
        (run / "metrics.csv").write_text("")
        (run / "model.safetensors").touch()
    (tmp_path / "runs" / "twin-s0").mkdir()
    return tmp_path / "runs"


def test_means_deviations_and_gains(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["campaign.py", str(out), str(runs)])
    campaign.main()
    cells = json.loads((out / "results.json").read_text())["cifar10_cpu"]
    assert (cells["reactnet"]["top1_mean"], cells["bcdnet_a"]["top1_std"]) == (81.0, None)
    assert cells["reactnet"]["top1_std"] == pytest.approx(2**0.5)
    assert cells["reactnet"]["runs"][0]["ops"] == cells["no_shift"]["runs"][0]["ops"] > 1e6
    page = (out / "README.md").read_text()
    assert "| ReActNet | 81.00 ± 1.41 |  | 2 |" in page and "(A) | 84.50 | +3.50 | 1 |" in page
    assert "2.0 hours" not in page and "4.0 hours of training on a CPU" in page
    assert "/elsewhere" not in page and str(runs) not in page and "data.path=data/cifar10" in page
    assert "run_dir=runs/reactnet-s0\n" in page and "run_dir=runs/reactnet-s1\n" in page, "folders of their own"
    # Without runs, the same from the copies alone.
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["campaign.py", str(out)])
    campaign.main()
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert before["comparison.svg"].startswith(b"<?xml")


def test_rows_come_in_the_order_of_their_group() -> None:
    cells: dict[str, dict[str, object]] = {name: {} for name in ("mlp_6", "mlp_3", "bcdnet_a", "reactnet", "no_shift")}
    rows = {title: [name for name, _ in listed] for title, listed in campaign.sections(cells)}
    assert rows["convolutions against MLP blocks"] == ["reactnet", "mlp_3", "mlp_6", "bcdnet_a"]
    assert rows["what the three branches of an MLP block see"] == ["bcdnet_a", "no_shift"]


def test_nothing_finished_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "runs" / "reactnet-s0").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["campaign.py", str(tmp_path / "out"), str(tmp_path / "runs")])
    with pytest.raises(SystemExit):
        campaign.main()
    assert "holds no results" in capsys.readouterr().err


def test_runs_that_are_called_alike_are_refused(runs: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    shutil.copytree(runs / "reactnet-s0", tmp_path / "other" / "reactnet-s0")
    monkeypatch.setattr(sys, "argv", ["campaign.py", str(tmp_path / "out"), str(runs), str(tmp_path / "other")])
    with pytest.raises(SystemExit):
        campaign.main()
    assert "runs/reactnet-s0 are called alike; rename one" in capsys.readouterr().err


def test_two_runs_of_one_seed_are_not_two_seeds(runs: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    shutil.copytree(runs / "reactnet-s0", tmp_path / "other" / "reactnet")
    monkeypatch.setattr(sys, "argv", ["campaign.py", str(tmp_path / "out"), str(runs), str(tmp_path / "other")])
    with pytest.raises(SystemExit):
        campaign.main()
    assert "reactnet and reactnet-s0 in" in (message := capsys.readouterr().err) and "both of seed 0" in message
