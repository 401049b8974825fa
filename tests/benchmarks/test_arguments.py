"""What cannot be measured, or written once it is, is refused in one line before anything is measured."""

import sys
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "script, words, told",
    [
        *(("serve", ["MODEL", "--seconds", seconds], "--seconds: above 0") for seconds in ("0", "-1", "nan", "inf")),
        *(("serve", ["MODEL", "--soak", soak], "--soak: at least 10") for soak in ("5", "-5", "nan", "inf")),
        ("startup", ["FILE", "--python", "/nowhere/python"], "--python: /nowhere/python is no program"),
        ("startup", ["FILE", "--json", "/nowhere/startup.json"], "--json: there is no folder /nowhere"),
        *((script, words, "FILE/out cannot be written to: ") for script, words in {
            "campaign": ["FILE/out"],
            "collect": ["FILE/out", "run", "--title", "Title"],
            "peers": ["--out", "FILE/out"],
            "serve": ["MODEL", "--out", "FILE/out"],
            "training": ["--out", "FILE/out"],
            "web": ["--out", "FILE/out"],
        }.items()),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_at_once(
    script: str, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    module = import_module(script)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
    with pytest.raises(SystemExit) as left:
        module.main()
    assert left.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
