"""Reading and writing the one-file container (safetensors with the program in its metadata)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bcdnet.errors import BcdnetError, ProgramError, printable
from bcdnet.files import lasting_file
from bcdnet.program.decode import from_json, parse, to_json
from bcdnet.program.schema import METADATA_KEY, Program
from bcdnet.program.validate import validate

MAX_JSON_BYTES = 16 * 2**20
_DTYPES = ("F32", "F16", "U32")


def read_program(path: str | os.PathLike[str]) -> Program:
    """Read and validate a `.bcdn` file. Every violation is one ProgramError that starts with the path.

    What is allocated before the program is known to be valid is bounded by the size of the file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ProgramError(f"{path}: is a folder; a run's is packed by bcdnet export")
        if not path.is_file():
            problem = "is a pipe or a device; write it to a file" if path.exists() else "no such file"
            raise ProgramError(f"{path}: {problem}")
        path.open("rb").close()  # safetensors says of every file that it cannot open that there is none
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        with safe_open(path, framework="numpy") as handle:
            text = _metadata(_header(path))
            return validate(from_json(parse(text), {name: _tensor(handle, name) for name in handle.keys()}))  # noqa: SIM118
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None
    except (SafetensorError, OSError, ValueError) as error:  # numpy's, of a shape that no array has
        raise ProgramError(f"{path}: not a complete .bcdn file ({printable(str(error))})") from None


def is_safetensors(path: Path, key: str = "") -> bool:
    """Whether a file begins like one, and with `key` among the first of its metadata."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(64)  # eight bytes are the length of the header, which is JSON
    return start[8:9] == b"{" and (not key or f'"{key}"'.encode() in start)


def _header(path: Path) -> Any:
    """The container's header, of a file that `safe_open` takes: which keeps one of two equal keys, without a word."""
    with path.open("rb") as file:
        text = file.read(int.from_bytes(file.read(8), "little")).decode()
    header = parse(text)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ProgramError(f"tensor {printable(repr(name))}: expected a dtype, a shape and data offsets alone")
    return header


def _metadata(header: Any) -> str:
    metadata = header.get("__metadata__")
    if not metadata or set(metadata) != {METADATA_KEY}:
        raise ProgramError(f"not a packed program: its metadata must have exactly the key {METADATA_KEY!r}")
    text: str = metadata[METADATA_KEY]
    if len(text.encode()) > MAX_JSON_BYTES:
        raise ProgramError(f"the program's JSON is longer than {MAX_JSON_BYTES} bytes")
    return text


def _tensor(handle: Any, name: str) -> npt.NDArray[Any]:
    dtype = handle.get_slice(name).get_dtype()
    if dtype not in _DTYPES:
        raise ProgramError(f"tensor {name!r}: dtype {dtype}; expected {', '.join(_DTYPES)}")
    array: npt.NDArray[Any] = handle.get_tensor(name)
    return array.astype(np.float32) if dtype == "F16" else array


def _stored(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Kernels and matrices as float16 where that holds their values exactly, see `export`'s `half`."""
    array = np.ascontiguousarray(array)
    if array.dtype != np.float32 or array.ndim < 2:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half, array) else array


def write_program(program: Program, path: str | os.PathLike[str]) -> Path:
    """Validate and write; beside the target, then renamed, so that a reader never sees half a file.

    Equal programs give equal bytes. Raises ProgramError for an invalid program or a path that cannot be written.
    """
    validate(program)
    path = Path(path)
    text = json.dumps(to_json(program), separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_JSON_BYTES:
        raise ProgramError(f"the program's JSON is longer than {MAX_JSON_BYTES} bytes")
    tensors = {name: _stored(array) for name, array in program.tensors.items()}
    # Not save_file: that makes a file which its owner alone may read, whatever the umask says.
    return write_whole(path, save(tensors, metadata={METADATA_KEY: text}), ProgramError)


def write_whole(path: Path, content: bytes, error_type: type[BcdnetError]) -> Path:
    """Write the whole file. Raises `error_type` for a path that cannot be written."""
    try:
        with lasting_file(path) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise error_type(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
