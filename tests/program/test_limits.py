"""What a program may ask for at most: work, numbers of things, the length of its text."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from every_op import epilogue

from bcdnet.errors import ProgramError
from bcdnet.program import read_program, write_program
from bcdnet.program.decode import from_json
from bcdnet.program.validate import validate


def test_work_is_bounded(document) -> None:
    """A small file cannot ask for endless computation: 255 x 255 windows over a large map, again and again."""
    size = 1024
    buffers = [{"kind": "image", "shape": [3, size, size]}]
    buffers += [{"kind": "map", "shape": [size, size, 3]} for _ in range(20)] + [{"kind": "vector", "shape": [3]}]
    window = {"kernel": [255, 255], "stride": [1, 1], "padding": [127, 127], "ceil": False}
    ops: list[dict[str, Any]] = [{"type": "transpose", "name": "t", "input": 0, "output": 1}]
    ops += [{"type": "max_pool", "name": f"p{i}", "input": i, "output": i + 1, **window} for i in range(1, 20)]
    ops += [{"type": "global_avg_pool", "name": "g", "input": 20, "output": 21}]
    changed = document[0] | {
        "buffers": buffers, "ops": ops, "outputs": [{"name": "y", "buffer": 21}], "labels": [], "preprocess": None,
    }  # fmt: skip
    with pytest.raises(ProgramError, match="multiply-accumulates"):
        validate(from_json(changed, {}))


def test_the_work_of_every_op_is_counted(document, monkeypatch) -> None:
    convolutions, pools = 5 * 6 * 8 * 27 + 3 * 5 * 6 * 8 * 8, 5 * 6 * 8 + 2 * 3 * 8 * 4 + 3 * 3 * 8 * 4 + 3 * 3 * 8
    most = convolutions + pools + 8 * 4
    monkeypatch.setattr("bcdnet.program.context.MAX_WORK", most)
    validate(from_json(*document))
    monkeypatch.setattr("bcdnet.program.context.MAX_WORK", most - 1)
    with pytest.raises(ProgramError, match="op 12 'op12': the program asks for more"):
        validate(from_json(*document))


def test_what_every_op_keeps_is_counted(document, monkeypatch) -> None:
    """Per 32 channels: a convolution, three branches of 1 x 1, two elementwise ops and the classifier."""
    kept = 32 * ((27 + 32) + (3 * 6 + 32) + 2 * 32 + (8 + 32))
    monkeypatch.setattr("bcdnet.program.context.MAX_KEPT", kept)
    validate(from_json(*document))
    monkeypatch.setattr("bcdnet.program.context.MAX_KEPT", kept - 1)
    with pytest.raises(ProgramError, match=f"op 12 'op12': more than {kept - 1} values are kept for the kernels"):
        validate(from_json(*document))


def test_numbers_of_buffers_and_ops_are_bounded(document) -> None:
    for part, count in (("buffers", 16384), ("ops", 4096)):
        many = document[0][part] * (count // len(document[0][part]) + 1)
        with pytest.raises(ProgramError, match=f"{part}: {len(many)} of them; at most {count}"):
            validate(from_json(document[0] | {part: many}, document[1]))


@pytest.mark.parametrize("binary", [False, True])
def test_a_convolution_sums_what_int32_and_float32_hold(binary, document) -> None:
    """Of 255 x 255 taps by 259 channels; the weights take no memory here."""
    buffers, tensors = [{"kind": "image", "shape": [259, 255, 255]}], {}
    ops: list[dict[str, Any]] = [{"type": "transpose", "name": "t", "input": 0, "output": 1}]
    plain = {"stride": [1, 1], "padding": [0, 0]}
    tensors["scale"] = np.ones(1, np.float32)
    if binary:
        buffers += [{"kind": kind, "shape": [255, 255, 259]} for kind in ("map", "bits")]
        bits = [{"buffer": 2, "bias": None, "alpha": None}]
        ops.append({"type": "elementwise", "name": "s", "input": 1, "epilogue": epilogue(bits=bits)})
        branches = [{"weight": "w", "scale": "scale", "shift": "none"}]
        ops.append({"type": "binary_conv2d", "name": "c", "input": 2, "branches": branches, **plain})
        tensors["w"] = np.broadcast_to(np.uint32(0), (1, 255, 255, 9))
    else:
        buffers.append({"kind": "map", "shape": [255, 255, 259]})
        ops.append({"type": "conv2d", "name": "c", "input": 1, "weight": "w", "bias": None, "groups": 1, **plain})
        tensors["w"] = np.broadcast_to(np.float32(0), (1, 255, 255, 259))
    ops[-1]["epilogue"] = epilogue(map=len(buffers))
    buffers.append({"kind": "map", "shape": [1, 1, 1]})
    with pytest.raises(ProgramError, match="weight: a sum of 16841475 terms; at most 16777216"):
        validate(from_json(document[0] | {"buffers": buffers, "ops": ops}, tensors))


def test_the_programs_json_is_bounded(document, save, tmp_path, monkeypatch) -> None:
    document[0]["provenance"] = {"name": "\N{SNOWMAN}"}
    size = len(json.dumps(document[0], separators=(",", ":")))
    for most, expected in ((size, nullcontext()), (size - 1, pytest.raises(ProgramError, match="JSON is longer than"))):
        monkeypatch.setattr("bcdnet.program.file.MAX_JSON_BYTES", most)
        with expected:
            path = write_program(from_json(*document), tmp_path / "x.bcdn")
    with pytest.raises(ProgramError, match="JSON is longer than"):
        read_program(path)


@pytest.mark.parametrize("pools", [2048, 2049])
def test_work_of_global_pools_is_bounded(pools, document) -> None:
    """Each reads a map of 2^27 elements: 2048 of them are the most."""
    buffers = [{"kind": "image", "shape": [32, 2048, 2048]}, {"kind": "map", "shape": [2048, 2048, 32]}]
    ops: list[dict[str, Any]] = [{"type": "transpose", "name": "t", "input": 0, "output": 1}]
    ops += [{"type": "global_avg_pool", "name": f"g{i}", "input": 1, "output": i + 2} for i in range(pools)]
    changed = document[0] | {
        "buffers": buffers + [{"kind": "vector", "shape": [32]}] * pools, "ops": ops,
        "outputs": [{"name": "y", "buffer": 2}], "labels": [], "preprocess": None,
    }  # fmt: skip
    with pytest.raises(ProgramError, match="multiply-accumulates") if pools > 2048 else nullcontext():
        validate(from_json(changed, {}))


def test_what_padding_adds_to_a_map_of_bits_is_bounded(document, monkeypatch) -> None:
    """Of one position with 33 channels, 5 x 3 positions of two words each."""
    kinds = [("image", [33, 1, 1]), ("map", [1, 1, 33]), ("bits", [1, 1, 33]), ("map", [3, 1, 1]), ("vector", [1])]
    bits = [{"buffer": 2, "bias": None, "alpha": None}]
    conv = {"stride": [1, 1], "padding": [2, 1], "branches": [{"weight": "w", "scale": "scale", "shift": "none"}]}
    ops: list[dict[str, Any]] = [
        {"type": "transpose", "name": "t", "input": 0, "output": 1},
        {"type": "elementwise", "name": "s", "input": 1, "epilogue": epilogue(bits=bits)},
        {"type": "binary_conv2d", "name": "c", "input": 2, **conv, "epilogue": epilogue(map=3)},
        {"type": "global_avg_pool", "name": "g", "input": 3, "output": 4},
    ]
    changed = document[0] | {
        "buffers": [{"kind": kind, "shape": shape} for kind, shape in kinds], "ops": ops,
        "outputs": [{"name": "y", "buffer": 4}], "labels": [], "preprocess": None,
    }  # fmt: skip
    program = from_json(changed, {"w": np.zeros((1, 3, 3, 2), np.uint32), "scale": np.ones(1, np.float32)})
    monkeypatch.setattr("bcdnet.program.check_ops.MAX_PADDED_WORDS", 30)
    validate(program)
    monkeypatch.setattr("bcdnet.program.check_ops.MAX_PADDED_WORDS", 29)
    with pytest.raises(ProgramError, match="op 2 'c': padding: the padded input has more than 29 words"):
        validate(program)
