"""Checkpoint files of others: what they hold, read without running any code that they may contain."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from bcdnet.errors import InteropError

NPZ_PREFIX = "state_dict/"  # of a state dict that shares its .npz file with other arrays


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """The mapping in a `torch.save`, `.safetensors` or `.npz` file, on the CPU.

    Raises InteropError: no such file, empty, damaged, or a pickle that holds more than tensors and plain values.
    """
    if path.is_dir():
        raise InteropError(f"{path}: is a folder, not a checkpoint; give the file in it")
    if not path.is_file():
        raise InteropError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InteropError(f"{path}: is empty")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif path.suffix == ".npz":
            content = _read_npz(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InteropError(
            f"{path}: not a checkpoint, or one that holds Python objects beside tensors, which are not loaded because "
            "that can run code; save its state dict alone"
        ) from error
    except Exception as error:  # what a damaged file makes a reader stumble over can be anything
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])  # some say nothing more
        raise InteropError(f"{path}: not a checkpoint, or a damaged one ({reason})") from error
    if not isinstance(content, Mapping):
        raise InteropError(f"{path}: holds {type(content).__name__}, not a state dict")
    return content


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        own = [name for name in arrays.files if name.startswith(NPZ_PREFIX)]
        return {name.removeprefix(NPZ_PREFIX): torch.from_numpy(arrays[name]) for name in own or arrays.files}
