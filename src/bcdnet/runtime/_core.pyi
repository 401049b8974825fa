"""The native core. Programs have the dict form of docs/format.md; what breaks its rules is a ValueError naming the op.

Shape legend: `N` images, `C` channels, `H`, `W` rows and columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class Session:
    """A program made ready for one instruction set. Any number of Python threads may call its methods at once."""

    def __init__(
        self,
        buffers: list[dict[str, Any]],
        ops: list[dict[str, Any]],
        tensors: dict[str, npt.NDArray[Any]],
        inputs: list[dict[str, Any]],
        outputs: list[dict[str, Any]],
        threads: int = 1,
        target: str | None = None,
        algorithm: str | None = None,
    ) -> None:
        """`target`: one of `targets()`, by default the best. `algorithm`: one of `algorithms(target)` for every binary
        convolution that it can do, by default the fastest for each. The tensors are copied.
        """

    def run(
        self, x: npt.NDArray[np.float32], outputs: Sequence[npt.NDArray[np.float32]] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Outputs [N, C] for images [N, C, H, W], C-contiguous, into the given arrays or new ones. Releases the GIL."""

    def profile(self, x: npt.NDArray[np.float32]) -> list[float]:
        """Seconds spent in each op, summed over the images."""

    def debug(self, x: npt.NDArray[np.float32], buffers: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
        """Contents of buffers, [N, ...] in the shapes of docs/format.md: float32, or uint32 words for bits."""

    @property
    def target(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def run_bytes(self) -> int:
        """Memory that one concurrent `run` needs; `debug` of a map that is stored as means takes more."""

    @property
    def op_algorithms(self) -> list[str]:
        """Algorithm of each op, empty where there is no choice."""

def targets() -> list[str]:
    """Instruction sets that this build has and this CPU runs, best first; the last is SCALAR, plain loops."""

def algorithms(target: str) -> list[str]:
    """Algorithms for binary convolutions on a target."""

def peak(kind: str, target: str) -> float:
    """Operations per second of one thread in a loop bound by `kind`: shuffle, pairs and popcount (binary
    multiply-accumulates) or fp32 (multiply-accumulates).
    """
