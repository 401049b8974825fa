"""Every kernel against the numpy executor, bit for bit, on every instruction set of this machine."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

_core = pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)
channels = st.one_of(st.integers(1, 70), st.sampled_from([96, 128, 160, 256]))
batches = st.integers(1, 9)


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    """Kernel, stride, padding and a map they fit on."""
    kernel, stride, padding, size = [], [], [], []
    for _ in range(2):
        k = draw(st.sampled_from([1, 2, 3, 3, 3, 5]))
        p = draw(st.integers(0, k - 1))
        kernel.append(k)
        padding.append(p)
        stride.append(draw(st.integers(1, 3)))
        size.append(draw(st.integers(max(1, k - 2 * p), 9)))
    return {
        "size": tuple(size),
        "window": {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding)},
    }


def flags(*names: str) -> Any:
    return st.fixed_dictionaries({name: st.booleans() for name in names})


@given(
    seeds, windows(), channels, channels, batches, flags("gain", "beta"), flags("mul", "add"),
    st.sampled_from([None, "slope", "all"]),
)  # fmt: skip
def test_binary_convolution(
    new_network: Any,
    check_network: Any,
    seed: int,
    place: Any,
    inputs: int,
    outputs: int,
    count: int,
    dynamic: Any,
    norm: Any,
    prelu: Any,
) -> None:
    network = new_network(seed, 2, *place["size"])
    more = norm | {step: network.vector(outputs) for step, given in dynamic.items() if given}
    network.start(inputs, map=False, bits=[(True, None)])
    network.binary_conv2d(network.bits[0], outputs, **place["window"], **more, prelu=prelu, bits=[(True, None)])
    check_network(network, count, algorithms=True)


@given(
    seeds, st.integers(1, 3), st.integers(1, 20), channels, st.integers(1, 70), st.integers(1, 2),
    st.sampled_from([("none",), ("none", "none", "none")]), st.lists(st.booleans(), min_size=1, max_size=2),
)  # fmt: skip
@example(0, 1, 56, 64, 70, 1, ("none",), [False, True])  # rows of more pixels than an item otherwise has
@example(0, 4, 7, 32, 64, 1, ("none",), [True])  # several pairs of rows in one item, whose length is no multiple of 8
def test_maps_of_which_only_means_are_read(
    new_network: Any, check_network: Any, seed: int, height: int, width: int, inputs: int, outputs: int, count: int,
    branches: Any, duplicated: list[bool],
) -> None:  # fmt: skip
    network = new_network(seed, 2, 2 * height, 2 * width)
    network.start(inputs, map=False, bits=[(True, None)])
    more = {"mul": True, "add": True, "prelu": "all", "bits": [(True, None)]}
    source = network.binary_conv2d(network.bits[0], outputs, (3, 3), (1, 1), (1, 1), shifts=branches, **more)
    (bits,) = network.bits
    for duplicate in duplicated:
        shortcut = {"buffer": source, "duplicate": duplicate, "avg_pool": True}
        out = network.binary_conv2d(bits, outputs * (1 + duplicate), (3, 3), (2, 2), (1, 1), shortcut=shortcut, **more)
        network.outputs.append(network.flatten(out))
    check_network(network, count, algorithms=True, finished=True)
    images = network.images(count)
    captured = [network.session(target=target, threads=2).debug(images, [source])[source] for target in _core.targets()]
    network.outputs = [network.flatten(source)]  # so that it is read itself, too
    for whole in captured:
        np.testing.assert_array_equal(whole.reshape(count, -1), network.expected(images)[0])


@given(seeds, sizes, sizes, st.integers(1, 40).map(lambda n: 4 * n), channels,
       st.lists(st.sampled_from(["none", "short", "long"]), min_size=1, max_size=3), st.booleans())  # fmt: skip
def test_shifted_branches(
    new_network: Any, check_network: Any, seed: int, height: int, width: int, inputs: int, outputs: int, shifts: Any,
    gain: bool,
) -> None:  # fmt: skip
    network = new_network(seed, 2, height, width)
    vector = network.vector(outputs) if gain else None
    network.start(inputs, map=False, bits=[(False, None)])
    network.binary_conv2d(network.bits[0], outputs, shifts=shifts, gain=vector, mul=True, add=True)
    check_network(network, algorithms=True)


@settings(max_examples=10)
@given(seeds, st.sampled_from([(256, 5), (384, 3), (512, 3), (1024, 3), (2048, 1)]), st.integers(1, 130))
def test_binary_convolution_with_long_sums(
    new_network: Any, check_network: Any, seed: int, depth: tuple[int, int], outputs: int
) -> None:
    """Long enough to overflow 8-bit and stress 16-bit counters, also where every bit disagrees."""
    inputs, kernel = depth
    network = new_network(seed, 1, 3, 2)
    network.start(inputs, map=False, bits=[(False, None)])
    window = {"kernel": (kernel, kernel), "padding": (kernel // 2, kernel // 2)}
    network.binary_conv2d(network.bits[0], outputs, **window)
    weight = network.tensors[network.ops[1]["branches"][0]["weight"]]
    weight[0], weight[-1] = 0, 0xFFFFFFFF
    network.tensors[network.ops[0]["weight"]][:] = 1 if seed % 2 else -1
    check_network(network, algorithms=True)


@given(
    seeds,
    sizes,
    sizes,
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["binary", "real", "none"])), min_size=1, max_size=6),
)
def test_sums_of_maps(
    new_network: Any, check_network: Any, seed: int, height: int, width: int, channel: int, links: Any
) -> None:
    """Each link adds one of the last three maps, which another may still read, or which nothing does any more."""
    network = new_network(seed, 2, height, width)
    maps = [network.start(channel, bits=[(True, None)])]
    window = {"kernel": (3, 3), "padding": (1, 1)}
    for back, convolution in links:
        shortcut = {"buffer": maps[-min(back, len(maps))], "duplicate": False, "avg_pool": False}
        if convolution == "binary":
            network.binary_conv2d(network.bits[0], channel, **window, shortcut=shortcut, bits=[(True, None)])
        elif convolution == "real":
            network.conv2d(maps[-1], channel, **window, shortcut=shortcut, bits=[(True, None)])
        else:
            network.elementwise(maps[-1], mul=True, shortcut=shortcut, bits=[(True, None)])
        maps.append(network.map)
    network.outputs.append(network.flatten(maps[-1]))
    check_network(network, 2, finished=True)


NONE = dict.fromkeys(("mul", "add", "gain", "beta", "alpha", "bias"), False)


@given(
    seeds,
    sizes,
    sizes,
    channels,
    st.sampled_from([None, "slope", "all"]),
    flags(*NONE),
    st.sampled_from([None, "same", "duplicate", "avg_pool", "both"]),
    st.integers(0, 2),
)
@example(  # values that are only compared, as a dynamic embedding's are
    0, 9, 9, 70, None, NONE | {"alpha": True, "bias": True}, None, 2
)
@example(0, 9, 9, 70, None, NONE | {"gain": True, "alpha": True, "bias": True}, None, 2)
@example(0, 9, 9, 70, "all", dict.fromkeys(NONE, True), "avg_pool", 1)
@example(0, 8, 8, 70, "all", dict.fromkeys(NONE, True), "avg_pool", 1)
def test_epilogue(
    new_network: Any, check_network: Any, seed: int, height: int, width: int, channel: int, prelu: Any, has: Any,
    shortcut: Any, bits: int,
) -> None:  # fmt: skip
    network = new_network(seed, 2, height, width)
    duplicate, pool = shortcut in ("duplicate", "both"), shortcut in ("avg_pool", "both")
    source = network.start(channel)
    stride = (2, 2) if pool else (1, 1)
    value = network.conv2d(network.image, channel * (2 if duplicate else 1), stride=stride)
    vector = network.simple("global_avg_pool", "vector", network.shape(value)[2:], input=value)
    network.elementwise(
        value,
        gain=vector if has["gain"] else None,
        beta=vector if has["beta"] else None,
        mul=has["mul"],
        add=has["add"],
        shortcut=shortcut and {"buffer": source, "duplicate": duplicate, "avg_pool": pool},
        prelu=prelu,
        map=bits == 0 or has["bias"],
        bits=[(has["bias"], vector if has["alpha"] else None)] * bits,
    )
    check_network(network)


@given(seeds, windows(), st.integers(1, 20), st.integers(1, 70), st.booleans(), st.booleans(), st.booleans())
def test_convolution(
    new_network: Any, check_network: Any, seed: int, place: Any, inputs: int, outputs: int, from_image: bool,
    bias: bool, gain: bool,
) -> None:  # fmt: skip
    network = new_network(seed, 3, *place["size"])
    vector = network.vector(outputs) if gain else None
    source = network.image if from_image else network.start(inputs)
    network.conv2d(source, outputs, **place["window"], bias=bias, gain=vector, prelu="slope")
    check_network(network)


@given(
    seeds, windows(), st.integers(1, 6), st.sampled_from([(1, 1), (2, 3), (8, 32), (1, 32), (3, 64), (16, 1), (1, 2)]),
    st.booleans(),
)  # fmt: skip
def test_grouped_convolution(
    new_network: Any, check_network: Any, seed: int, place: Any, groups: int, per_group: tuple[int, int],
    from_image: bool,
) -> None:  # fmt: skip
    inputs = groups * per_group[0]
    network = new_network(seed, inputs if from_image else 2, *place["size"])
    source = network.image if from_image else network.start(inputs)
    network.conv2d(source, groups * per_group[1], **place["window"], groups=groups)
    check_network(network)


@given(seeds, st.data(), st.integers(1, 70), st.booleans(), st.booleans(), st.booleans())
def test_pools(
    new_network: Any,
    check_network: Any,
    seed: int,
    data: Any,
    channel: int,
    ceil: bool,
    include_pad: bool,
    maximum: bool,
) -> None:
    kernel = [data.draw(st.integers(1, 4)) for _ in range(2)]
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    stride = [data.draw(st.integers(1, 3)) for _ in range(2)]
    # Rounded up, a window may be larger than the padded map.
    least = [max(1, k - 2 * p - (s - 1 if ceil else 0)) for k, p, s in zip(kernel, padding, stride, strict=True)]
    size = [data.draw(st.integers(n, 9)) for n in least]
    network = new_network(seed, 2, *size)
    source = network.start(channel)
    shape = []
    for n, k, s, p in zip(size, kernel, stride, padding, strict=True):
        out = (n + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
        shape.append(out - 1 if ceil and (out - 1) * s >= n + p else out)
    window = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil}
    if not maximum:
        window["count_include_pad"] = include_pad
    network.simple("max_pool" if maximum else "avg_pool", "map", [*shape, channel], input=source, **window)
    check_network(network)


@given(seeds, sizes, sizes, channels, st.integers(1, 150), st.booleans(), batches)
def test_head(
    new_network: Any,
    check_network: Any,
    seed: int,
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    bias: bool,
    count: int,
) -> None:
    network = new_network(seed, 3, height, width)
    pooled = network.simple("global_avg_pool", "vector", [inputs], input=network.start(inputs))
    network.simple(
        "linear", "vector", [outputs], input=pooled, weight=network.reals(outputs, inputs),
        bias=network.reals(outputs) if bias else None,
    )  # fmt: skip
    check_network(network, count)


@given(seeds, sizes, sizes, st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_layouts(new_network: Any, check_network: Any, seed: int, height: int, width: int, parts: list[int]) -> None:
    network = new_network(seed, 3, height, width)
    maps = [network.start(n) for n in parts]
    joined = network.simple("concat", "map", [height, width, sum(parts)], inputs=maps)
    turned = network.simple("transpose", "map", [sum(parts), 1, height * width], input=joined)
    network.simple("reshape", "map", [height * width, 1, sum(parts)], input=turned)
    network.simple("transpose", "map", [height, width, 3], input=network.image)
    vectors = [network.simple("global_avg_pool", "vector", [n], input=m) for n, m in zip(parts, maps, strict=True)]
    network.simple("concat", "vector", [sum(parts)], inputs=vectors)
    network.outputs = []
    check_network(network)


def test_a_maximum_is_no_number_where_one_is_none(new_network: Any) -> None:
    network = new_network(0, 2, 3, 3)
    for source, weights in ((network.image, [[1e10, 0], [0, -1e10]]), (1, [[1, 1]])):  # infinity less infinity
        network.add(
            "conv2d", input=source, weight=network.tensor(np.array(weights, np.float32)[:, None, None]), bias=None,
            stride=[1, 1], padding=[0, 0], groups=1, epilogue=network.epilogue([3, 3, len(weights)]),
        )  # fmt: skip
    window = {"kernel": [2, 2], "stride": [1, 1], "padding": [0, 0], "ceil": False}
    network.simple("max_pool", "map", [2, 2, 1], input=network.map, **window)
    network.finish()
    images = np.zeros((1, 2, 3, 3), np.float32)
    images[0, :, 0, 1] = 3e38
    expected = network.expected(images)
    for target in _core.targets():
        for ours, theirs in zip(network.session(target=target, threads=1).run(images), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=target)
    assert np.isnan(expected[-1]).sum() == 2


@pytest.mark.skipif(sys.platform == "win32", reason="memory is protected otherwise there")
@pytest.mark.parametrize("target", _core.targets())
def test_nothing_is_read_behind_an_image_of_one_pixel(new_network: Any, target: str) -> None:
    network = new_network(0, 3, 1, 1)
    network.conv2d(network.image, 3, groups=3)
    network.finish()
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = np.frombuffer(pages, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    images = np.frombuffer(pages, np.float32, 3, mmap.PAGESIZE - 12).reshape(1, 3, 1, 1)
    try:
        (found,) = network.session(target=target, threads=1).run(images)
    finally:
        libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 3)
    assert np.array_equal(found, network.expected(images)[0])
