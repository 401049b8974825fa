"""What is said of files that hold no checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bcdnet.errors import InteropError
from bcdnet.interop.files import read_checkpoint


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match="is a folder, not a checkpoint"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.npz", "a.safetensors"])
def test_a_file_without_bytes_is_empty(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InteropError, match=rf"{name}: is empty$"):
        read_checkpoint(tmp_path / name)


def test_a_reader_may_fail_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise EOFError

    (tmp_path / "a.pth").write_bytes(b"x")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(InteropError, match=r"not a checkpoint, or a damaged one \(EOFError\)$"):
        read_checkpoint(tmp_path / "a.pth")
