"""Makes the malformed files beside it: `python tests/malformed/make.py`.

Each is one small valid file (`valid.bcdn`: a convolution, two binary layers, pooling, a classifier) with one rule of
docs/format.md broken. `CASES` says for each file what was changed and what the message must hold; the files are kept
so that any reader of the format can be tested with them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "bcdnet_program"


def _epilogue(**fields: Any) -> dict[str, Any]:
    empty = {"beta": None, "mul": None, "add": None, "shortcut": None, "prelu": None, "map": None, "bits": []}
    return empty | fields


def program() -> dict[str, Any]:
    """An image of 1 x 4 x 4, four channels, two classes."""
    branches = [{"weight": "mlp", "scale": "vector", "shift": shift} for shift in ("none", "short", "long")]
    return {
        "format": 1,
        "buffers": [
            {"kind": "image", "shape": [1, 4, 4]}, {"kind": "bits", "shape": [4, 4, 4]},
            {"kind": "bits", "shape": [2, 2, 4]}, {"kind": "map", "shape": [2, 2, 4]},
            {"kind": "vector", "shape": [4]}, {"kind": "vector", "shape": [2]},
        ],
        "ops": [
            {"type": "conv2d", "name": "stem", "input": 0, "weight": "stem", "bias": "vector", "stride": [1, 1],
             "padding": [1, 1], "groups": 1,
             "epilogue": _epilogue(bits=[{"buffer": 1, "bias": None, "alpha": None}])},
            {"type": "binary_conv2d", "name": "conv", "input": 1,
             "branches": [{"weight": "conv", "scale": "vector", "shift": "none"}], "stride": [2, 2], "padding": [1, 1],
             "epilogue": _epilogue(mul="vector", bits=[{"buffer": 2, "bias": "vector", "alpha": None}])},
            {"type": "binary_conv2d", "name": "mlp", "input": 2, "branches": branches, "stride": [1, 1],
             "padding": [0, 0], "epilogue": _epilogue(map=3)},
            {"type": "global_avg_pool", "name": "pool", "input": 3, "output": 4},
            {"type": "linear", "name": "head", "input": 4, "output": 5, "weight": "head", "bias": None},
        ],
        "inputs": [{"name": "image", "buffer": 0}],
        "outputs": [{"name": "logits", "buffer": 5}],
        "labels": ["cat", "dog"],
        "preprocess": None,
        "provenance": {},
    }  # fmt: skip


def _tensor(kind: str, *shape: int) -> tuple[str, list[int], bytes]:
    """(dtype, shape, bytes) of float32 steps of 1/8 or of words that use four bits."""
    count = math.prod(shape)
    values = [index / 8 - 1 if kind == "F32" else index % 16 for index in range(count)]
    return kind, list(shape), struct.pack(f"<{count}{'f' if kind == 'F32' else 'I'}", *values)


class File:
    """A valid file in parts, each of which a case may spoil."""

    def __init__(self) -> None:
        self.program = program()
        self.metadata: dict[str, str] | None = None
        self.header: dict[str, Any] = {}
        self.data = b""
        self.add("conv", *_tensor("U32", 4, 3, 3, 1))
        self.add("head", *_tensor("F32", 2, 4))
        self.add("mlp", *_tensor("U32", 4, 1, 1, 1))
        self.add("stem", *_tensor("F32", 4, 3, 3, 1))
        self.add("vector", *_tensor("F32", 4))

    def add(self, name: str, dtype: str, shape: list[int], content: bytes) -> None:
        offsets = [len(self.data), len(self.data) + len(content)]
        self.header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        self.data += content

    def text(self) -> str:
        return json.dumps(self.program, separators=(",", ":"))

    def content(self) -> bytes:
        metadata = {KEY: self.text()} if self.metadata is None else self.metadata
        header = json.dumps({"__metadata__": metadata} | self.header, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + self.data


Spoil = Callable[[File], bytes | None]


def _bytes(change: Callable[[bytes], bytes]) -> Spoil:
    """Spoil the finished file."""
    return lambda file: change(file.content())


def _header_text(change: Callable[[str], str]) -> Spoil:
    """Spoil the container's header as text."""

    def spoil(file: File) -> bytes:
        content = file.content()
        header = change(content[8 : len(content) - len(file.data)].decode()).encode()
        return len(header).to_bytes(8, "little") + header + file.data

    return spoil


def _text(change: Callable[[str], str]) -> Spoil:
    """Spoil the program's JSON."""

    def spoil(file: File) -> None:
        file.metadata = {KEY: change(file.text())}

    return spoil


def _at(root: str, path: str, value: Any) -> Spoil:
    """Put the value at a place such as `ops.0.name` in the program or in the header; DELETE removes what is there."""

    def spoil(file: File) -> None:
        target = getattr(file, root)
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            target = target[part]
        if value is DELETE:
            del target[last]
        else:
            target[last] = value

    return spoil


DELETE = object()


def _program(path: str, value: Any) -> Spoil:
    return _at("program", path, value)


def _header(path: str, value: Any) -> Spoil:
    return _at("header", path, value)


def _word(index: int, word: int) -> Spoil:
    """Another word in the tensors' data."""

    def spoil(file: File) -> None:
        words = list(struct.unpack(f"<{len(file.data) // 4}I", file.data))
        words[index] = word
        file.data = struct.pack(f"<{len(words)}I", *words)

    return spoil


def _metadata(value: dict[str, str]) -> Spoil:
    def spoil(file: File) -> None:
        file.metadata = value

    return spoil


def _empty(file: File) -> None:
    file.add("spare", "F32", [0, 2**62, 4], b"")


def _unused(file: File) -> None:
    file.add("spare", *_tensor("F32", 1))


def _listed(file: File) -> None:
    """The container's reader takes an entry's values without their keys as well."""
    file.header["vector"] = list(file.header["vector"].values())


def _renamed(file: File) -> None:
    file.program["ops"][4]["weight"] = "he\nad"
    file.header = {"he\nad" if name == "head" else name: entry for name, entry in file.header.items()}


def _thin(file: File) -> None:
    """Maps of few channels, which kernels keep as 32."""
    file.program["buffers"][0]["shape"] = [1, 8192, 8192]
    file.program["buffers"][1]["shape"] = [8192, 8192, 4]
    file.program["buffers"][2]["shape"] = [4096, 4096, 4]
    file.program["buffers"][3]["shape"] = [4096, 4096, 4]


def _tall(file: File) -> None:
    """Bits that are as large as they may be, before padding."""
    file.program["buffers"][0]["shape"] = [1, 65536, 2048]
    file.program["buffers"][1]["shape"] = [65536, 2048, 4]


def _kept(file: File) -> None:
    """No weights at all, but constants for each channel of each op."""
    for kind, shape in (("map", [2, 2, 256]), ("map", [1, 1, 1024]), *[("map", [1, 1, 65536])] * 257):
        file.program["buffers"].append({"kind": kind, "shape": shape})
    file.program["ops"] += [
        {"type": "concat", "name": "wide", "inputs": [3] * 64, "output": 6},
        {"type": "reshape", "name": "one", "input": 6, "output": 7},
        {"type": "concat", "name": "wider", "inputs": [7] * 64, "output": 8},
        *[{"type": "elementwise", "name": f"{i}", "input": i, "epilogue": _epilogue(map=i + 1)} for i in range(8, 264)],
    ]


CONTAINER = "not a complete .bcdn file"
PREPROCESS = {"input_size": [1, 4, 4], "mean": [0.5], "std": [0.0], "interpolation": "bilinear", "crop_pct": 1.0}

# File name: how it is spoilt, and what the message must hold.
CASES: dict[str, tuple[Spoil, str]] = {
    # The container.
    "empty": (_bytes(lambda _: b""), CONTAINER),
    "header-length-huge": (_bytes(lambda file: b"\xff" * 8 + file[8:]), CONTAINER),
    "header-cut": (_bytes(lambda file: file[:200]), CONTAINER),
    "header-no-json": (_bytes(lambda file: file[:8] + b"[" + file[9:]), CONTAINER),
    "data-cut": (_bytes(lambda file: file[:-1]), CONTAINER),
    "data-trailing": (_bytes(lambda file: file + b"\0"), CONTAINER),
    "tensors-overlap": (_header("head.data_offsets", [140, 172]), CONTAINER),
    "tensor-beyond-data": (_header("vector.data_offsets", [2**40, 2**40 + 16]), CONTAINER),
    "tensor-shape-overflow": (_header("vector.shape", [2**62, 4]), CONTAINER),
    "tensor-dtype": (_header("vector.dtype", "I32"), "tensor 'vector': dtype I32; expected F32, F16, U32"),
    "tensor-empty-overflow": (_empty, CONTAINER),
    "tensor-key-unknown": (_header("vector.stride", 1), "tensor 'vector': expected a dtype, a shape and data offsets"),
    "tensor-twice": (
        _header_text(
            lambda text: text.replace(
                '"vector":', '"vector":{"dtype":"F32","shape":[4],"data_offsets":[336,352]},"vector":'
            )
        ),
        "key 'vector' twice",
    ),
    "metadata-twice": (
        _header_text(lambda text: text.replace(f'"{KEY}":', f'"{KEY}":"{{}}","{KEY}":', 1)),
        f"key {KEY!r} twice",
    ),
    "no-program": (_metadata({}), f"its metadata must have exactly the key {KEY!r}"),
    "metadata-extra": (_metadata({KEY: "{}", "other": ""}), f"its metadata must have exactly the key {KEY!r}"),
    "header-nul": (_header_text(lambda text: text + "\0garbage"), CONTAINER),
    # The program's JSON.
    "json-nul": (_text(lambda text: text + "\0garbage"), "the program is not valid JSON"),
    "json-cut": (_text(lambda text: text[:-1]), "the program is not valid JSON"),
    "json-key-twice": (_text(lambda text: text.replace("{", '{"format":1,', 1)), "has the key 'format' twice"),
    "json-nan": (
        _text(lambda text: text.replace('"provenance":{}', '"provenance":{"x":NaN}')),
        "the program holds NaN",
    ),
    "json-deep": (_text(lambda text: "[" * 2000 + text), "the program is not valid JSON"),
    "newer-format": (_program("format", 3), "the file has format 3, newer than this bcdnet reads (2)"),
    "format-of-gain": (_program("ops.1.epilogue.gain", None), "op 1 'conv'.epilogue: unknown key 'gain'"),
    "key-unknown": (_program("ops.1.dilation", [1, 1]), "op 1 'conv': unknown key 'dilation'"),
    "key-missing": (_program("ops.1.stride", DELETE), "op 1 'conv': missing key 'stride'"),
    "float-for-integer": (_program("ops.3.input", 3.0), "op 3 'pool'.input: expected an integer, got 3.0"),
    "bool-for-integer": (_program("ops.0.groups", True), "op 0 'stem'.groups: expected an integer, got True"),
    # Buffers.
    "buffer-zero": (_program("buffers.3.shape", [0, 2, 4]), "buffer 3: every dimension must be 1 to 65536"),
    "buffers-padded": (_thin, "buffers: 11072962816 bytes per image with channels in steps of 32"),
    "buffers-huge": (_program("buffers.3.shape", [65536, 65536, 4]), "buffers: 68719476904 bytes per image"),
    "buffer-beyond": (_program("ops.3.input", 6), "op 3 'pool': input: there is no buffer 6"),
    "buffer-early": (_program("ops.1.input", 2), "op 1 'conv': input: buffer 2 is read before it is written"),
    "buffer-twice": (_program("ops.1.epilogue.bits.0.buffer", 1), "op 1 'conv': epilogue.bits[0].buffer: buffer 1"),
    "buffer-kind": (_program("ops.1.input", 0), "op 1 'conv': input: buffer 0 is of kind image; expected bits"),
    "output-kind": (_program("outputs.0.buffer", 3), "outputs[0].buffer: 3 is not a buffer of kind vector"),
    # Ops.
    "op-unknown": (_program("ops.3.type", "softmax"), "op 3: unknown op type 'softmax'"),
    "op-name-twice": (_program("ops.2.name", "conv"), "op 2 'conv': another op has this name"),
    "op-name-control": (_program("ops.2.name", "\x1b[2J"), "op 2: name: must have 1 to 256 characters"),
    "tensor-missing": (_program("ops.4.weight", "none"), "op 4 'head': weight: there is no tensor 'none'"),
    "tensor-shape": (_program("ops.4.weight", "stem"), "op 4 'head': weight: tensor 'stem' has shape [4, 3, 3, 1]"),
    "stride-zero": (_program("ops.1.stride", [0, 2]), "op 1 'conv': stride: [0, 2] must be 1 to 255"),
    "padding-wide": (_program("ops.1.padding", [3, 1]), "op 1 'conv': padding: [3, 1] is out of range"),
    "padded-huge": (_tall, "op 1 'conv': padding: the padded input has more than 134217728 words"),
    "groups": (_program("ops.0.groups", 2), "op 0 'stem': groups: 2 does not divide 1 input channels"),
    "shift-strided": (_program("ops.1.branches.0.shift", "long"), "op 1 'conv': branches: a shift needs a 1x1 kernel"),
    "no-result": (_program("ops.2.epilogue.map", None), "op 2 'mlp': epilogue: no result"),
    "kept-huge": (_kept, "op 263 '263': more than 536870912 values are kept for the kernels"),
    "alpha-static": (_program("ops.0.epilogue.bits.0.alpha", 4), "op 0 'stem': epilogue.bits[0].alpha: only"),
    # Tensors and the rest.
    "tensor-nan": (_word(-1, 0x7FC00000), "tensor 'vector': holds a NaN or an infinity"),
    "padding-bits": (_word(0, 0x10), "op 1 'conv': weight: tensor 'conv' has padding bits set"),
    "tensor-list": (_listed, "tensor 'vector': expected a dtype"),
    "tensor-name": (_renamed, "tensor 'he\\nad': must have 1 to 256 characters"),
    "surrogate": (_program("provenance", {"a\ud800": 1}), "provenance: holds half of a surrogate pair"),
    "tensor-unused": (_unused, "tensor 'spare': no op uses it"),
    "labels": (_program("labels", ["cat"]), "labels: 1 of them for an output of 2"),
    "std-zero": (_program("preprocess", PREPROCESS), "preprocess.std: every value must be positive"),
    "std-subnormal": (_program("preprocess", PREPROCESS | {"std": [1e-44]}), "preprocess: mean and std are beyond"),
    "mean-huge": (
        _program("preprocess", PREPROCESS | {"mean": [1e308], "std": [1.0]}),
        "preprocess: mean and std are beyond",
    ),
    "provenance-huge": (_program("provenance", {"x": 10**400}), "provenance: numbers must be finite, in float64 too"),
    "crop-tiny": (
        _program("preprocess", PREPROCESS | {"std": [1.0], "crop_pct": 1e-9}),
        "preprocess.crop_pct: must be in [0.1, 1]",
    ),
}


def make(name: str) -> bytes:
    """The content of one case."""
    file = File()
    spoilt = CASES[name][0](file)
    return file.content() if spoilt is None else spoilt


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "valid.bcdn").write_bytes(File().content())
    for name in CASES:
        (folder / f"{name}.bcdn").write_bytes(make(name))
