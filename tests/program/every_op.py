"""A small valid program with every type of op, as plain JSON and tensors, to be written or broken."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save

Document = tuple[dict[str, Any], dict[str, Any]]


def epilogue(**fields: Any) -> dict[str, Any]:
    """These steps and results, and no others."""
    steps = dict.fromkeys(("gain", "beta", "mul", "add", "shortcut", "prelu", "map"))
    return steps | {"bits": []} | fields


def build(channels: int = 8, seed: int = 0) -> Document:
    """`channels` (a multiple of 4) wide, on images of 3 x 5 x 6."""
    random = np.random.default_rng(seed)
    c, h, w = channels, 5, 6
    tensors: dict[str, Any] = {
        "stem": random.normal(size=(c, 3, 3, 3)).astype(np.float32),
        "head": random.normal(size=(4, c)).astype(np.float32),
        "packed": random.integers(0, 2**32, (c, 1, 1, (c + 31) // 32), np.uint32),
        "vector": random.normal(size=c).astype(np.float32),
    }
    if c % 32:
        tensors["packed"][..., -1] &= np.uint32((1 << c % 32) - 1)
    kinds: list[tuple[str, list[int]]] = [
        ("image", [3, h, w]), ("map", [h, w, c]), ("bits", [h, w, c]), ("map", [h, w, c]), ("bits", [h, w, c]),
        ("vector", [c]), ("map", [h, w, c]), ("map", [2, 3, c]), ("map", [3, 3, c]), ("map", [2, 3, 2 * c]),
        ("map", [1, 2 * c, 6]), ("vector", [12 * c]), ("vector", [4]), ("map", [h, w, c]), ("vector", [c]),
    ]  # fmt: skip
    bits = [{"buffer": 2, "bias": "vector", "alpha": None}]
    shortcut = {"buffer": 1, "duplicate": False, "avg_pool": False}
    prelu = {"bias_in": None, "slope": "vector", "bias_out": "vector"}
    branches = [{"weight": "packed", "scale": "vector", "shift": shift} for shift in ("none", "short", "long")]
    plain = {"stride": [1, 1], "padding": [0, 0]}
    pool = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]}
    ops: list[dict[str, Any]] = [
        {"type": "conv2d", "input": 0, "weight": "stem", "bias": "vector", "stride": [1, 1], "padding": [1, 1],
         "groups": 1, "epilogue": epilogue(mul="vector", add="vector", map=1, bits=bits)},
        {"type": "global_avg_pool", "input": 1, "output": 5},
        {"type": "binary_conv2d", "input": 2, "branches": branches, **plain,
         "epilogue": epilogue(gain=5, beta=5, shortcut=shortcut, prelu=prelu, map=3)},
        {"type": "elementwise", "input": 3,
         "epilogue": epilogue(bits=[{"buffer": 4, "bias": None, "alpha": 5}])},
        {"type": "unpack", "input": 4, "output": 6},
        {"type": "elementwise", "input": 6, "epilogue": epilogue(shortcut=shortcut, map=13)},
        {"type": "max_pool", "input": 13, "output": 7, **pool, "ceil": False},
        {"type": "avg_pool", "input": 3, "output": 8, **pool, "ceil": True, "count_include_pad": True},
        {"type": "concat", "inputs": [7, 7], "output": 9},
        {"type": "transpose", "input": 9, "output": 10},
        {"type": "reshape", "input": 10, "output": 11},
        {"type": "global_avg_pool", "input": 8, "output": 14},
        {"type": "linear", "input": 14, "output": 12, "weight": "head", "bias": None},
    ]  # fmt: skip
    document = {
        "format": 2,
        "buffers": [{"kind": kind, "shape": shape} for kind, shape in kinds],
        "ops": [{"name": f"op{i}"} | op for i, op in enumerate(ops)],
        "inputs": [{"name": "image", "buffer": 0}],
        "outputs": [{"name": "logits", "buffer": 12}, {"name": "flat", "buffer": 11}],
        "labels": ["a", "b", "c", "d"],
        "preprocess": {
            "input_size": [3, h, w], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 0.9,
        },
        "provenance": {"run": {"seed": 1}},
    }  # fmt: skip
    return document, tensors


def packed(channels: int = 8) -> bytes:
    """The file of it, one of whose tensors is stored in float16."""
    document, tensors = build(channels, seed=channels)
    tensors["head"] = tensors["head"].astype(np.float16)
    return save(tensors, metadata={"bcdnet_program": json.dumps(document)})
