from pathlib import Path

import numpy as np
import pytest
from halfway import IMAGE, halfway

pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")

from bcdnet.program.file import write_program
from bcdnet.program.reference import execute
from bcdnet.runtime import InferenceSession, available_targets


@pytest.mark.parametrize("target", available_targets())
def test_multiply_adds_are_rounded_once_where_there_is_no_instruction_for_it_too(target: str, tmp_path: Path) -> None:
    program, twice = halfway()
    expected = execute(program, IMAGE)[0]
    assert (expected != twice).sum() == expected.size // 2
    session = InferenceSession(write_program(program, tmp_path / "x.bcdn"), target=target)
    assert np.array_equal(session.run(None, {"image": IMAGE})[0], expected)
