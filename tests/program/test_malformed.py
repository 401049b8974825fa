"""The files in tests/malformed: each breaks one rule, and the reader says which, where, and nothing else."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from bcdnet.errors import ProgramError
from bcdnet.program import execute, read_program

FOLDER = Path(__file__).parents[1] / "malformed"
MAKE = runpy.run_path(str(FOLDER / "make.py"))


def test_the_file_before_it_was_spoilt_is_valid() -> None:
    program = read_program(FOLDER / "valid.bcdn")
    (logits,) = execute(program, np.ones((1, 1, 4, 4), np.float32))
    assert logits.shape == (1, 2)


def test_every_file_is_a_case() -> None:
    assert {path.stem for path in FOLDER.glob("*.bcdn")} == {"valid", *MAKE["CASES"]}


@pytest.mark.parametrize("name", MAKE["CASES"])
def test_says_what_is_wrong(name) -> None:
    file = FOLDER / f"{name}.bcdn"
    assert file.read_bytes() == MAKE["make"](name), "run tests/malformed/make.py"
    with pytest.raises(ProgramError) as caught:
        read_program(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and MAKE["CASES"][name][1] in message and message.isprintable()
