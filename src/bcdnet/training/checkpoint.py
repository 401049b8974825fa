"""Training checkpoints that survive `kill -9`: written beside, flushed to disk, renamed; checked when they are read.

A file is what `torch.save` writes, followed by its SHA-256, because PyTorch's reader does not notice a flipped bit.
"""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bcdnet.errors import CheckpointError
from bcdnet.files import lasting_file

FORMAT = 1
KEPT = 2
DIGEST_BYTES = 32
NAME = re.compile(r"(\d{2,})-(.+)-(\d{9,})\.ckpt")


def write_checkpoint(folder: Path, phase: int, name: str, state: dict[str, Any]) -> Path:
    """Write `state` (which has `iteration`) and remove all but it and the one before; returns the new path.

    Whenever the process dies, the folder holds the previous checkpoints whole, and at most a `.partial` file besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "phase": phase, **state}, buffer)
    payload = buffer.getbuffer()
    path = folder / f"{phase:02d}-{name}-{state['iteration']:09d}.ckpt"
    with lasting_file(path) as beside, beside.open("wb") as file:
        file.write(payload)
        file.write(hashlib.sha256(payload).digest())
    found = checkpoints(folder)
    # What seems newer could not be read when the run resumed, from an older one.
    for other in {*found} - {*found[found.index(path) :][:KEPT]}:
        other.unlink()
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in one file, tensors on the CPU. Raises CheckpointError if it is truncated, altered or foreign."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    payload, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path} is truncated or damaged (its checksum does not match)")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {state.get('format')}, this version reads {FORMAT}")
    return state


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest (phase, then iteration) first."""
    names = [match for path in folder.glob("*.ckpt") if (match := NAME.fullmatch(path.name))]
    return [
        folder / match[0] for match in sorted(names, key=lambda match: (int(match[1]), int(match[3])), reverse=True)
    ]


def newest_readable(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that reads well, or None if the folder has none.

    A damaged one is reported through `say` and passed over. Raises CheckpointError if all of them are damaged.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            say(f"{error}; trying the checkpoint before it")
    if found:
        raise CheckpointError(f"none of the {len(found)} checkpoints in {folder} can be read; start the run anew")
    return None
