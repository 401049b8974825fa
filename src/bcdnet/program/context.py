"""What the checks of the single ops share: buffers written, tensors used, work asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bcdnet.errors import ProgramError
from bcdnet.program.schema import Program, words

MAX_WORK = 2**38
MAX_KEPT = 2**29
CONSTANTS = 32  # more than an op has for an output channel besides its weights


class Context:
    """The state of one validation; `where` names the op under check and opens every message."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.written: set[int] = set()
        self.tensors: set[str] = set()
        self.work = 0
        self.kept = 0
        self.where = ""

    def error(self, text: str) -> ProgramError:
        return ProgramError(f"{self.where}: {text}")

    def read(self, buffer: int, *kinds: str, field: str = "input") -> tuple[int, ...]:
        """Shape of a buffer that an earlier op (or the caller) wrote and whose kind is one of `kinds`."""
        self._kind(buffer, kinds, field)
        if buffer not in self.written:
            raise self.error(f"{field}: buffer {buffer} is read before it is written")
        return self.program.buffers[buffer].shape

    def write(self, buffer: int, kind: str, shape: tuple[int, ...] | None, field: str = "output") -> tuple[int, ...]:
        """Note that the op writes this buffer, whose kind (and shape, unless None) must be as given; its shape."""
        self._kind(buffer, (kind,), field)
        if buffer in self.written:
            raise self.error(f"{field}: buffer {buffer} is written twice")
        actual = self.program.buffers[buffer].shape
        if shape is not None and actual != shape:
            raise self.error(f"{field}: buffer {buffer} has shape {list(actual)}; the op gives {list(shape)}")
        self.written.add(buffer)
        return actual

    def _kind(self, buffer: int, kinds: tuple[str, ...], field: str) -> None:
        if not 0 <= buffer < len(self.program.buffers):
            raise self.error(f"{field}: there is no buffer {buffer}")
        kind = self.program.buffers[buffer].kind
        if kind not in kinds:
            raise self.error(f"{field}: buffer {buffer} is of kind {kind}; expected {' or '.join(kinds)}")

    def tensor(
        self, name: str, *shape: int | None, dtype: npt.DTypeLike = np.float32, field: str = "weight"
    ) -> npt.NDArray[Any]:
        """The tensor of this name after checking dtype and shape (None: any size >= 1)."""
        array = self.program.tensors.get(name)
        if array is None:
            raise self.error(f"{field}: there is no tensor {name!r}")
        if array.dtype != np.dtype(dtype):
            raise self.error(f"{field}: tensor {name!r} is {array.dtype}; expected {np.dtype(dtype)}")
        matches = len(array.shape) == len(shape) and all(
            size >= 1 and want in (None, size) for size, want in zip(array.shape, shape, strict=True)
        )
        if not matches:
            wanted = [want if want is not None else "?" for want in shape]
            raise self.error(f"{field}: tensor {name!r} has shape {list(array.shape)}; expected {wanted}")
        self.tensors.add(name)
        return array

    def spend(self, work: int) -> None:
        """Count multiply-accumulates or pool taps of one image, so that no small file asks for endless computation."""
        self.work += work
        if self.work > MAX_WORK:
            raise self.error(f"the program asks for more than {MAX_WORK} multiply-accumulates per image")

    def keep(self, outputs: int, values: int) -> None:
        """Count what an op keeps, `values` for each output channel, so that no small file becomes a large session."""
        self.kept += 32 * words(outputs) * values
        if self.kept > MAX_KEPT:
            raise self.error(f"more than {MAX_KEPT} values are kept for the kernels")
