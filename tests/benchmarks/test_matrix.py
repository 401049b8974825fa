"""The rows of matrix.yaml: each resolves, builds, and costs what ReActNet does."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO

import matrix
import pytest

from bcdnet.training.recipe_file import differences, load_recipe

ROOT = Path(__file__).resolve().parents[2]


def path_of(recipe: str) -> Path:
    return ROOT / "recipes" / f"{recipe}.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", matrix.read_matrix()["recipes"])
def test_rows_differ_and_cost_the_same(recipe: str) -> None:
    rows = {row.name: row for row in matrix.rows_of(path_of(recipe))}
    groups = matrix.read_matrix()["groups"]
    resolved = {name: load_recipe(path_of(recipe), row.words) for name, row in rows.items()}
    networks = {repr(found.model): name for name, found in resolved.items()}  # many rows differ in the schedule alone
    costs = {network: matrix.costs(path_of(recipe), rows[name]) for network, name in networks.items()}
    counts = {name: costs[repr(found.model)] for name, found in resolved.items()}
    for name, row in rows.items():
        assert row.group in groups
        if row.equal:
            assert abs(counts[name].ops / counts["reactnet"].ops - 1) <= 0.01, name
        assert all(differences(resolved[name], resolved[other]) for other in rows if other != name), name
    assert counts["twin"].bops == 0


def test_what_does_not_apply_is_left_out() -> None:
    assert {"no_teacher", "wide_teacher"} == {row.name for row in matrix.rows_of(path_of("cifar10"))} - {
        row.name for row in matrix.rows_of(path_of("cifar10_cpu"))
    }
    with pytest.raises(KeyError, match="not digits"):
        matrix.rows_of(path_of("digits"))


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "matrix.py"), *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_commands_resume_and_skip(tmp_path: Path) -> None:
    words = ("--out", str(tmp_path), "--rows", "no_shift", "no_teacher", "--teacher", "t.safetensors", "--print")
    shown = run(str(path_of("cifar10")), *words, "--data", "D D", "--seeds", "3", "--", "epochs=1").splitlines()
    assert [line.split()[1] for line in shown] == ["train", "eval"] * 2
    assert "model.mlp_branches=[none,none,none]" in shown[0] and "'data.path=D D'" in shown[0]
    assert "epochs=1 seed=3" in shown[0] and "'teacher={checkpoint: \"t.safetensors\"}'" in shown[0]
    assert "teacher=null" in shown[2] and "t.safetensors" not in shown[2] and shown[1].endswith("--data 'D D'")
    for name, files in (("no_shift-s0", ["recipe.yaml"]), ("no_teacher-s0", ["metrics.json", "model.safetensors"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    train, evaluation, rest = run(str(path_of("cifar10")), *words).splitlines()
    assert train.endswith("--resume") and "no_shift-s0" in evaluation
    assert rest == f"bcdnet eval {tmp_path / 'no_teacher-s0'} --data data/cifar10"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes/cifar10_cpu.yaml", "--groups", "modls"], "no group modls for cifar10_cpu"),
        (["recipes/cifar10_cpu.yaml", "--rows", "all"], "no row all for cifar10_cpu"),
        (["recipes/digits.yaml"], "matrix.yaml knows cifar10, "),
        (["recipes/none.yaml"], "matrix.yaml knows cifar10, "),
    ],
)
def test_what_is_not_there_is_named(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["matrix.py", *words, "--costs"])
    with pytest.raises(SystemExit) as left:
        matrix.main()
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_jobs_are_at_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command waits for one of the other run: where one run waits for the other, the barrier breaks."""
    both = threading.Barrier(2)

    def command(words: list[str], stdout: TextIO, **_: object) -> subprocess.CompletedProcess[str]:
        both.wait(timeout=10)
        stdout.write(f"{words[1]}\n")
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(matrix.subprocess, "run", command)
    words = ["--out", str(tmp_path / "runs"), "--rows", "reactnet", "bcdnet_b", "--data", "D", "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", ["matrix.py", str(path_of("cifar10")), *words])
    matrix.main()
    for row in ("reactnet", "bcdnet_b"):
        assert (tmp_path / "runs" / f"{row}-s0.log").read_text() == "train\neval\n"
