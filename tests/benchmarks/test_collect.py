"""The figure that compares finished runs."""

import json
import shutil
from pathlib import Path

import pytest
from collect import curve, describe, main, page, portable_file

ROWS = """step,event,epoch,iteration,val_top1
teacher,epoch,1,10,90.5
step1,train,0.5,5,
step1,epoch,1,10,40.5
step1,epoch,2,20,50.5
step2,epoch,1,10,
step2,epoch,2,20,60.5
"""


def test_curve_is_the_students_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(ROWS)
    assert curve(tmp_path) == [(1.0, 40.5), (2.0, 50.5), (4.0, 60.5)]


def test_a_run_whose_teacher_was_not_trained_in_it_is_described() -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-27-cifar10-taught"
    (kept,) = json.loads((results / "results.json").read_text())
    assert describe(results / kept["run"]) == kept and kept["teacher_top1"] == pytest.approx(93.76)


def test_a_page_names_every_machine_and_version() -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-27-cifar10-taught"
    (row,) = json.loads((results / "results.json").read_text())
    other = {**row, "machine": "Abacus", "versions": {"torch": "9.9"}, "images": 360}
    told = page("title", [row, other])
    assert f"; {row['machine']}, Abacus; " in told
    assert "torch 9.9" in told and f"torch {row['versions']['torch']}" in told
    assert "Evaluated on 360 or 10,000 test images" in told


def test_files_keep_their_numbers_and_lose_their_places(tmp_path: Path) -> None:
    """YAML's reader would make a string of 1e-07."""
    recipe = Path(__file__).parents[2] / "recipes" / "digits.yaml"
    text = recipe.read_text(encoding="utf-8") + "run_dir: /home/josé/runs/first\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "environment.json").write_text(json.dumps({"at": "/home/josé/runs/first", "loss": 1e-07}))
    assert portable_file(tmp_path / "environment.json") == {"at": "runs/first", "loss": 1e-07}
    assert portable_file(tmp_path / "recipe.yaml")["run_dir"] == "runs/first"


def test_a_folder_is_made_again_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is all that the repository holds of a run."""
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-27-cifar10-taught"
    shutil.copytree(results, tmp_path / "out")
    (row,) = json.loads((results / "results.json").read_text())
    monkeypatch.setattr(
        "sys.argv", ["collect.py", str(tmp_path / "out"), str(tmp_path / "out" / row["run"]), "--title", "x"]
    )
    main()
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == [row]
    for file in (results / row["run"]).iterdir():
        assert (tmp_path / "out" / row["run"] / file.name).read_bytes() == file.read_bytes()


def test_two_runs_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them once took the other's place in the folder."""
    monkeypatch.setattr("sys.argv", ["collect.py", "out", "a/run", "b/run", "--title", "x"])
    with pytest.raises(SystemExit):
        main()
    assert "several runs are called run: rename their folders" in capsys.readouterr().err
