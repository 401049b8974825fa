"""`bcdnet doctor` tells what is there, and never fails because something is not."""

from __future__ import annotations

import builtins
import json
import re
import sys
from importlib import metadata
from typing import Any

import pytest

from bcdnet.cli import doctor
from bcdnet.cli.main import main


def call(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["doctor", *arguments])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_json_and_table_tell_the_same(capsys: pytest.CaptureFixture) -> None:
    found = json.loads(call(capsys, "--json"))
    assert found["bcdnet"]["python"].startswith(f"{sys.version_info.major}.")
    assert found["machine"]["CPUs"] >= found["machine"]["CPUs for this process"] >= 1
    assert found["versions"]["numpy"] != "not installed"
    table = call(capsys)
    assert "…" not in table
    assert found["bcdnet"]["version"] in table and found["machine"]["processor"] in table


def test_whatever_a_command_may_need_is_listed() -> None:
    needs = [need for need in metadata.requires("bcdnet") or () if not re.search(r"extra == .(dev|docs)\b", need)]
    names = {re.split(r"[^\w.-]", need)[0] for need in needs} - {"bcdnet"}
    assert {"numpy", "torch", "uvicorn"} < names <= set(doctor.LIBRARIES)


def test_the_core_is_told_as_it_is(capsys: pytest.CaptureFixture) -> None:
    core = json.loads(call(capsys, "--json"))["core"]
    assert (core["built"] is False and core["remedy"]) or (core["targets"][-1] == "SCALAR" and core["best target"])


def test_without_core_and_torch_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_core(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if name == "bcdnet.runtime" and "_core" in (fromlist or ()):
            raise ImportError("no module named _core")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without_core)
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    found = doctor.examine()
    assert found["core"]["built"] is False and "pip install" in found["core"]["remedy"]
    assert found["torch"] == {"installed": False, "remedy": "pip install 'bcdnet[train]' to train and to pack models"}


def test_a_broken_torch_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: object())
    assert "problem" in doctor.examine()["torch"]
