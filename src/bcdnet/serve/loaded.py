"""A model that is ready to be served, and what can be said about it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bcdnet.program.file import read_program
from bcdnet.program.schema import BinaryConv2d, Preprocess, Program
from bcdnet.runtime import InferenceSession
from bcdnet.runtime.preprocess import for_images
from bcdnet.serve.schemas import ModelInfo


@dataclass(frozen=True, eq=False)
class Loaded:
    """One model by the name it is served under; its session may be shared by threads. `info`: what clients are told."""

    name: str
    session: InferenceSession
    preprocess: Preprocess
    info: ModelInfo


def load(path: str | os.PathLike[str], name: str | None = None, threads: int | None = None) -> Loaded:
    """Read a packed file, and run it once so that the first request does not pay for it.

    Raises ProgramError for a bad file, DataError for one that says nothing of preprocessing, takes no images or has no
    finite logits.
    """
    path = Path(path)
    session = InferenceSession(path, threads=threads)
    preprocess = for_images(session.preprocess, str(path))
    (port,) = session.get_inputs()
    shape = tuple(int(size) for size in port.shape[1:])
    Image.init()  # Pillow imports its decoders when the first image comes
    (logits, *_) = session.run(None, {port.name: np.zeros((1, *shape), np.float32)})
    session.rank(logits, 1)  # which refuses a network that diverged
    program = read_program(path)
    binary_macs = sum(price.binary_macs for price in session.costs)
    float_macs = sum(price.float_macs for price in session.costs)
    info = ModelInfo(
        name=name or path.stem,
        input=list(preprocess.input_size),
        labels=list(session.labels) or [str(index) for index in range(logits.shape[1])],
        cam=session.cam_problem is None,
        file_bytes=path.stat().st_size,
        binary_weights=_binary_weights(program),
        float_weights=sum(int(array.size) for array in program.tensors.values() if array.dtype == np.float32),
        binary_macs=binary_macs,
        float_macs=float_macs,
        operations=float_macs + binary_macs // 64,
        target=session.target,
        threads=session.threads,
    )
    return Loaded(info.name, session, preprocess, info)


def _binary_weights(program: Program) -> int:
    binary = 0
    for op in program.ops:
        if isinstance(op, BinaryConv2d):
            outputs, rows, columns, _ = program.tensors[op.branches[0].weight].shape
            binary += int(outputs * rows * columns) * program.buffers[op.input].shape[2] * len(op.branches)
    return binary
