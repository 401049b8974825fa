"""Checkpoints: what is kept, and what happens to damaged ones."""

from pathlib import Path

import pytest
import torch

from bcdnet.errors import CheckpointError
from bcdnet.training.checkpoint import checkpoints, newest_readable, read_checkpoint, write_checkpoint


def fill(folder: Path) -> list[Path]:
    for phase, name, iteration in ((0, "step1", 900), (1, "step2", 5), (1, "step2", 100)):
        write_checkpoint(
            folder, phase, name, {"iteration": iteration, "model": {"w": torch.full((50,), float(iteration))}}
        )
    return checkpoints(folder)


def test_the_two_newest_are_kept_and_read_back(tmp_path: Path) -> None:
    kept = fill(tmp_path)
    assert [path.name for path in kept] == ["01-step2-000000100.ckpt", "01-step2-000000005.ckpt"]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    state = read_checkpoint(kept[0])
    assert (state["phase"], state["iteration"]) == (1, 100)
    assert torch.equal(state["model"]["w"], torch.full((50,), 100.0))


def test_a_later_phase_is_newer_whatever_its_iteration(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 0, "zz", {"iteration": 900})
    write_checkpoint(tmp_path, 1, "aa", {"iteration": 1})
    state = newest_readable(tmp_path, print)
    assert state is not None and state["phase"] == 1


def test_names_of_any_letters_and_many_phases(tmp_path: Path) -> None:
    for phase, name in ((9, "first"), (100, "e\N{COMBINING ACUTE ACCENT}tape"), (101, "last-one")):
        write_checkpoint(tmp_path, phase, name, {"iteration": 1})
    assert [read_checkpoint(path)["phase"] for path in checkpoints(tmp_path)] == [101, 100]


def test_what_could_not_be_read_takes_no_place(tmp_path: Path) -> None:
    for iteration in (400, 500):
        write_checkpoint(tmp_path, 0, "step1", {"iteration": iteration})
    checkpoints(tmp_path)[0].write_bytes(b"cut")
    for iteration in (410, 420):
        write_checkpoint(tmp_path, 0, "step1", {"iteration": iteration})
    assert [read_checkpoint(path)["iteration"] for path in checkpoints(tmp_path)] == [420, 410]


@pytest.mark.parametrize("damage", ["cut in half", "cut by a byte", "emptied", "a bit flipped"])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    newest = fill(tmp_path)[0]
    data = bytearray(newest.read_bytes())
    if damage == "a bit flipped":
        data[len(data) // 2] ^= 1
    length = {"cut in half": len(data) // 2, "cut by a byte": len(data) - 1, "emptied": 0}.get(damage, len(data))
    newest.write_bytes(data[:length])
    said: list[str] = []
    state = newest_readable(tmp_path, said.append)
    assert state is not None and state["iteration"] == 5
    assert len(said) == 1
    assert newest.name in said[0] and "truncated or damaged" in said[0] and "before it" in said[0]


def test_nothing_to_read(tmp_path: Path) -> None:
    assert newest_readable(tmp_path / "missing", print) is None
    (tmp_path / "01-step2-000000100.partial").write_bytes(b"half a checkpoint")
    assert newest_readable(tmp_path, print) is None
    for path in fill(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        newest_readable(tmp_path, lambda message: None)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 0, "step1", {"iteration": 1, "format": 99})
    with pytest.raises(CheckpointError, match="has format 99, this version reads 1"):
        read_checkpoint(path)
