"""Random programs in dict form, run by the native core and by the numpy executor of `bcdnet.program`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bcdnet.program.decode import from_json
from bcdnet.program.reference import execute, pack_bits
from bcdnet.program.validate import validate

_core = pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")

Pair = tuple[int, int]


class Network:
    """A program under construction. Every method adds one op and returns the id of what it writes."""

    def __init__(self, seed: int, channels: int, height: int, width: int) -> None:
        self.random = np.random.default_rng(seed)
        self.buffers: list[dict[str, Any]] = []
        self.ops: list[dict[str, Any]] = []
        self.tensors: dict[str, Any] = {}
        self.outputs: list[int] = []
        self.image = self.buffer("image", channels, height, width)

    def buffer(self, kind: str, *shape: int) -> int:
        self.buffers.append({"kind": kind, "shape": list(shape)})
        return len(self.buffers) - 1

    def shape(self, buffer: int) -> list[int]:
        return list(self.buffers[buffer]["shape"])

    def tensor(self, array: Any) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = np.ascontiguousarray(array)
        return name

    def floats(self, *shape: int) -> str:
        # Quarters, so that exact zeros, and with them sign(0), come up.
        return self.tensor(np.round(self.random.normal(size=shape) * 4).astype(np.float32) / 4)

    def reals(self, *shape: int) -> str:
        return self.tensor(self.random.normal(size=shape).astype(np.float32))

    def add(self, kind: str, **fields: Any) -> None:
        self.ops.append({"type": kind, "name": f"op{len(self.ops)}", **fields})

    def epilogue(self, shape: list[int], **parts: Any) -> dict[str, Any]:
        """`shape` is the value's; parts: gain, beta, shortcut as given; mul, add, prelu ("slope", "all"), map, bits
        wished.

        `bits` is a list of (has bias, alpha id or None). Ids of results are left in `self.map` and `self.bits`.
        """
        channels = shape[2]
        prelu = parts.get("prelu")
        both = prelu == "all"
        self.map = self.buffer("map", *shape) if parts.get("map", True) else None
        bits = [
            {"buffer": self.buffer("bits", *shape), "bias": self.floats(channels) if bias else None, "alpha": alpha}
            for bias, alpha in parts.get("bits", ())
        ]
        self.bits = [entry["buffer"] for entry in bits]
        return {
            "gain": parts.get("gain"),
            "beta": parts.get("beta"),
            "mul": self.reals(channels) if parts.get("mul") else None,
            "add": self.reals(channels) if parts.get("add") else None,
            "shortcut": parts.get("shortcut"),
            "prelu": prelu
            and {
                "bias_in": self.reals(channels) if both else None,
                "slope": self.reals(channels),
                "bias_out": self.reals(channels) if both else None,
            },
            "map": self.map,
            "bits": bits,
        }

    def conv_shape(self, height: int, width: int, outputs: int, kernel: Pair, stride: Pair, padding: Pair) -> list[int]:
        return [
            *((n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True)),
            outputs,
        ]

    def conv2d(
        self,
        source: int,
        outputs: int,
        kernel: Pair = (1, 1),
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        **more: Any,
    ) -> int | None:
        shape = self.shape(source)
        channels, height, width = shape if source == self.image else (shape[2], shape[0], shape[1])
        groups = more.pop("groups", 1)
        bias = self.reals(outputs) if more.pop("bias", False) else None
        out = self.conv_shape(height, width, outputs, kernel, stride, padding)
        self.add(
            "conv2d", input=source, weight=self.reals(outputs, *kernel, channels // groups), bias=bias,
            stride=list(stride), padding=list(padding), groups=groups, epilogue=self.epilogue(out, **more),
        )  # fmt: skip
        return self.map

    def binary_conv2d(
        self,
        source: int,
        outputs: int,
        kernel: Pair = (1, 1),
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        **more: Any,
    ) -> int | None:
        height, width, channels = self.shape(source)
        branches = []
        for shift in more.pop("shifts", ("none",)):
            weight = pack_bits(self.random.normal(size=(outputs, *kernel, channels)).astype(np.float32))
            branches.append({"weight": self.tensor(weight), "scale": self.reals(outputs), "shift": shift})
        out = self.conv_shape(height, width, outputs, kernel, stride, padding)
        self.add(
            "binary_conv2d", input=source, branches=branches, stride=list(stride), padding=list(padding),
            epilogue=self.epilogue(out, **more),
        )  # fmt: skip
        return self.map

    def elementwise(self, source: int, **more: Any) -> int | None:
        self.add("elementwise", input=source, epilogue=self.epilogue(self.shape(source), **more))
        return self.map

    def simple(self, kind: str, kind_out: str, shape: list[int], **fields: Any) -> int:
        """Any op with one `output`."""
        output = self.buffer(kind_out, *shape)
        self.add(kind, **fields, output=output)
        return output

    def vector(self, channels: int) -> int:
        """A vector of small random values."""
        return self.simple("global_avg_pool", "vector", [channels], input=self.start(channels))

    def start(self, channels: int, **more: Any) -> int | None:
        """A map of small random values: a 1x1 convolution of the image."""
        return self.conv2d(self.image, channels, **more)

    def finish(self) -> None:
        """Makes vectors of everything that nothing has read, so that every value reaches an output."""
        for buffer in range(1, len(self.buffers)):
            kind, shape = self.buffers[buffer]["kind"], self.shape(buffer)
            if kind == "bits":
                unpacked = self.simple("unpack", "map", shape, input=buffer)
                self.outputs.append(self.flatten(unpacked))
            elif kind == "map":
                self.outputs.append(self.flatten(buffer))
            else:
                self.outputs.append(buffer)

    def flatten(self, source: int) -> int:
        return self.simple("reshape", "vector", [int(np.prod(self.shape(source)))], input=source)

    def document(self) -> dict[str, Any]:
        return {
            "format": 2,
            "buffers": self.buffers,
            "ops": self.ops,
            "inputs": [{"name": "image", "buffer": self.image}],
            "outputs": [{"name": f"o{i}", "buffer": b} for i, b in enumerate(self.outputs)],
            "labels": [],
            "preprocess": None,
            "provenance": {},
        }

    def session(self, **options: Any) -> Any:
        document = self.document()
        return _core.Session(*(document[key] for key in ("buffers", "ops")), self.tensors,
                             *(document[key] for key in ("inputs", "outputs")), **options)  # fmt: skip

    def images(self, count: int) -> Any:
        images = np.round(self.random.normal(size=(count, *self.shape(self.image))) * 4) / 4
        return images.astype(np.float32)

    def expected(self, images: Any) -> list[Any]:
        return execute(validate(from_json(self.document(), self.tensors)), images)


def variants() -> list[tuple[str, str | None, int]]:
    """Every (target, algorithm, threads) worth a run on this machine."""
    found: list[tuple[str, str | None, int]] = []
    for target in _core.targets():
        found += [(target, None, 1), (target, None, 3)]
        found += [(target, algorithm, 1) for algorithm in _core.algorithms(target)]
    return found


def check(network: Network, count: int = 1, *, algorithms: bool = False, finished: bool = False) -> None:
    """Every target and number of threads gives the executor's bits, and says which target it was.

    `finished`: the network has the outputs that it shall have; else every buffer becomes one.
    """
    if not finished:
        network.finish()
    images = network.images(count)
    expected = network.expected(images)
    for target, algorithm, threads in variants():
        if algorithm is not None and not algorithms:
            continue
        session = network.session(target=target, algorithm=algorithm, threads=threads)
        assert session.target == target
        assert session.threads == threads
        for index, (ours, theirs) in enumerate(zip(session.run(images), expected, strict=True)):
            same = np.array_equal(ours.view(np.uint32) << (ours == 0), theirs.view(np.uint32) << (theirs == 0))
            assert same, f"{target} {algorithm} {threads} threads: output {index} differs"


@pytest.fixture(scope="session")
def new_network() -> type[Network]:
    return Network


@pytest.fixture(scope="session")
def check_network() -> Any:
    return check
