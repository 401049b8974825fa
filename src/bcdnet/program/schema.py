"""The packed program as frozen dataclasses, field for field what docs/format.md lists.

`Id` is a buffer's index, `Tensor` a tensor's name, a pair is (vertical, horizontal).
Shape legend: `H`, `W` rows and columns, `C`/`I`/`O` channels, all per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NewType, get_args

import numpy.typing as npt

FORMAT = 2
METADATA_KEY = "bcdnet_program"

Id = NewType("Id", int)
Tensor = NewType("Tensor", str)
Pair = tuple[int, int]
Kind = Literal["image", "map", "vector", "bits"]
Shift = Literal["none", "short", "long"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Buffer:
    """`image` f32 [C][H][W]; `map` f32 [H][W][C]; `vector` f32 [C]; `bits` u32 [H][W][ceil(C/32)], shape (H, W, C)."""

    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """A named input or output."""

    name: str
    buffer: Id


@dataclass(frozen=True)
class Preprocess:
    """timm's keys: shorter side to round(size / crop_pct), centre crop, scale to [0, 1], (x - mean) / std."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    crop_pct: float


@dataclass(frozen=True)
class Shortcut:
    """A map to add, seen through 2x2 average pooling and/or with its channels twice."""

    buffer: Id
    duplicate: bool = False
    avg_pool: bool = False


@dataclass(frozen=True)
class Prelu:
    """`v + bias_in`, then `v > 0 ? v : v * slope`, then `v + bias_out`; tensors [O]."""

    bias_in: Tensor | None
    slope: Tensor
    bias_out: Tensor | None


@dataclass(frozen=True)
class Bits:
    """One packed result: the bit is `(v + bias) - alpha >= 0`."""

    buffer: Id
    bias: Tensor | None = None
    alpha: Id | None = None


@dataclass(frozen=True)
class Epilogue:
    """The elementwise steps after an op, in this order, and its results."""

    gain: Id | None = field(default=None, metadata={"since": 2})  # a key of files from that format on
    beta: Id | None = None
    mul: Tensor | None = None
    add: Tensor | None = None
    shortcut: Shortcut | None = None
    prelu: Prelu | None = None
    map: Id | None = None
    bits: tuple[Bits, ...] = ()


@dataclass(frozen=True)
class Branch:
    """One weight of a binary convolution: packed bits [O][kh][kw][words], scale [O], and how its input is rolled."""

    weight: Tensor
    scale: Tensor
    shift: Shift


@dataclass(frozen=True, kw_only=True)
class Conv2d:
    """Real-valued convolution of an image or a map; weight [O][kh][kw][I/groups]."""

    type: Literal["conv2d"] = "conv2d"
    name: str
    input: Id
    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    groups: int
    epilogue: Epilogue


@dataclass(frozen=True, kw_only=True)
class BinaryConv2d:
    """One to three binary convolutions of one packed map, each scaled, then summed."""

    type: Literal["binary_conv2d"] = "binary_conv2d"
    name: str
    input: Id
    branches: tuple[Branch, ...]
    stride: Pair
    padding: Pair
    epilogue: Epilogue


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """An epilogue on a map."""

    type: Literal["elementwise"] = "elementwise"
    name: str
    input: Id
    epilogue: Epilogue


@dataclass(frozen=True, kw_only=True)
class Unpack:
    """Bits to a map of ±1.0."""

    type: Literal["unpack"] = "unpack"
    name: str
    input: Id
    output: Id


@dataclass(frozen=True, kw_only=True)
class AvgPool:
    """Average of each window."""

    type: Literal["avg_pool"] = "avg_pool"
    name: str
    input: Id
    output: Id
    kernel: Pair
    stride: Pair
    padding: Pair
    ceil: bool
    count_include_pad: bool


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Maximum of each window."""

    type: Literal["max_pool"] = "max_pool"
    name: str
    input: Id
    output: Id
    kernel: Pair
    stride: Pair
    padding: Pair
    ceil: bool


@dataclass(frozen=True, kw_only=True)
class GlobalAvgPool:
    """Map [H, W, C] to vector [C]."""

    type: Literal["global_avg_pool"] = "global_avg_pool"
    name: str
    input: Id
    output: Id


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Vector [I] to vector [O]; weight [O][I]."""

    type: Literal["linear"] = "linear"
    name: str
    input: Id
    output: Id
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Concat:
    """Maps or vectors joined along the channels."""

    type: Literal["concat"] = "concat"
    name: str
    inputs: tuple[Id, ...]
    output: Id


@dataclass(frozen=True, kw_only=True)
class Transpose:
    """Map as (H*W) x C, or image as C x (H*W), to the map that holds the transposed matrix."""

    type: Literal["transpose"] = "transpose"
    name: str
    input: Id
    output: Id


@dataclass(frozen=True, kw_only=True)
class Reshape:
    """The same elements in the same order under another shape."""

    type: Literal["reshape"] = "reshape"
    name: str
    input: Id
    output: Id


Op = (
    Conv2d
    | BinaryConv2d
    | Elementwise
    | Unpack
    | AvgPool
    | MaxPool
    | GlobalAvgPool
    | Linear
    | Concat
    | Transpose
    | Reshape
)
OPS: dict[str, type[Op]] = {op.type: op for op in get_args(Op)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A whole packed program. `tensors` are C-contiguous float32 or uint32 arrays by name."""

    buffers: tuple[Buffer, ...]
    ops: tuple[Op, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


def words(channels: int) -> int:
    """Number of 32-bit words that hold one pixel's bits."""
    return (channels + 31) // 32


def buffer_bytes(buffer: Buffer) -> int:
    """Bytes of the buffer for one image."""
    shape = buffer.shape
    if buffer.kind == "bits":
        shape = (*shape[:-1], words(shape[-1]))
    return 4 * math.prod(shape)


def conv_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output rows (or columns) of a convolution."""
    return (size + 2 * padding - kernel) // stride + 1


def pool_size(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """Output rows (or columns) of a pool; with `ceil` the last window still starts inside the padded map."""
    if not ceil:
        return conv_size(size, kernel, stride, padding)
    out = -(-(size + 2 * padding - kernel) // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out
