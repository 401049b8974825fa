"""Sessions: many threads on one, captures, profiles, and every way to be refused."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest

from bcdnet.errors import ProgramError
from bcdnet.program.decode import from_json
from bcdnet.program.validate import validate

_core = pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")


@pytest.fixture(scope="module")
def network(new_network: Any) -> Any:
    """Two binary convolutions with a shortcut, pooled into ten outputs."""
    network = new_network(7, 3, 12, 11)
    source = network.start(40, bits=[(True, None)])
    more = {"mul": True, "add": True, "prelu": "all", "bits": [(True, None)]}
    shortcut = {"buffer": source, "duplicate": False, "avg_pool": False}
    network.binary_conv2d(network.bits[0], 40, (3, 3), (1, 1), (1, 1), shortcut=shortcut, **more)
    last = network.binary_conv2d(network.bits[0], 70, shifts=("none", "short", "long"), **more)
    pooled = network.simple("global_avg_pool", "vector", [70], input=last)
    weight, bias = network.reals(10, 70), network.reals(10)
    network.outputs = [network.simple("linear", "vector", [10], input=pooled, weight=weight, bias=bias)]
    return network


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_a_session(network: Any, threads: int) -> None:
    session = network.session(threads=threads)
    batches = [network.images(count) for count in (1, 2, 3, 1, 5, 2)]
    expected = [network.expected(batch)[0] for batch in batches]
    results: dict[int, list[Any]] = {i: [] for i in range(len(batches))}

    def work(index: int) -> None:
        results[index] = [session.run(batches[index])[0] for _ in range(20)]

    workers = [threading.Thread(target=work, args=(i,)) for i in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, arrays in results.items():
        assert len(arrays) == 20
        for array in arrays:
            np.testing.assert_array_equal(array, expected[index])


def test_outputs_of_the_caller(network: Any) -> None:
    session, images = network.session(), network.images(2)
    mine = np.full((2, 10), np.nan, np.float32)
    (returned,) = session.run(images, [mine])
    assert returned is mine
    np.testing.assert_array_equal(mine, session.run(images)[0])
    for wrong in (np.zeros((2, 9), np.float32), np.zeros((2, 10)), np.zeros((4, 10), np.float32)[::2]):
        with pytest.raises(ValueError, match="output 0 must be"):
            session.run(images, [wrong])
    assert session.run(images[:0])[0].shape == (0, 10)


def test_profile_and_algorithms(network: Any) -> None:
    session = network.session()
    seconds = session.profile(network.images(1))
    assert len(seconds) == len(network.ops)
    assert all(s > 0 for s in seconds)
    assert [bool(name) for name in session.op_algorithms] == [op["type"] == "binary_conv2d" for op in network.ops]
    assert session.run_bytes > 0


def test_a_map_takes_the_place_of_its_shortcut(new_network: Any) -> None:
    network = new_network(5, 3, 40, 40)
    source = network.start(64, bits=[(True, None)])
    shortcut = {"buffer": source, "duplicate": False, "avg_pool": False}
    last = network.binary_conv2d(network.bits[0], 64, shortcut=shortcut)
    network.outputs = [network.simple("global_avg_pool", "vector", [64], input=last)]
    map_bytes = 40 * 40 * 64 * 4
    assert map_bytes < network.session().run_bytes < 2 * map_bytes


def test_a_quarter_is_kept_of_a_map_of_which_means_are_read(new_network: Any) -> None:
    network = new_network(5, 3, 80, 80)
    network.start(32, map=False, bits=[(True, None)])
    source = network.binary_conv2d(network.bits[0], 256, bits=[(True, None)])
    shortcut = {"buffer": source, "duplicate": False, "avg_pool": True}
    last = network.binary_conv2d(network.bits[0], 256, stride=(2, 2), shortcut=shortcut)
    network.outputs = [network.simple("global_avg_pool", "vector", [256], input=last)]
    map_bytes = 80 * 80 * 256 * 4
    assert map_bytes / 4 < network.session().run_bytes < map_bytes / 2
    network.outputs.append(network.simple("global_avg_pool", "vector", [256], input=source))  # reads the map itself
    assert network.session().run_bytes > map_bytes


def test_debug_captures_every_buffer(network: Any) -> None:
    images = network.images(3)
    ids = list(range(1, len(network.buffers)))
    reference = network.session(target="SCALAR").debug(images, ids)
    for target in _core.targets():
        captured = network.session(target=target, threads=2).debug(images, ids)
        for buffer in ids:
            np.testing.assert_array_equal(captured[buffer], reference[buffer], err_msg=f"{target} buffer {buffer}")
    with pytest.raises(ValueError, match="buffer"):
        network.session().debug(images, [0])
    with pytest.raises(ValueError, match="buffer"):
        network.session().debug(images, [len(network.buffers)])


def test_debug_takes_a_buffer_named_twice(network: Any) -> None:
    session, images = network.session(), network.images(64)
    largest = max(range(1, len(network.buffers)), key=lambda buffer: np.prod(network.shape(buffer)))
    once, often = session.debug(images, [largest]), session.debug(images, [largest] * 50)
    assert list(often) == [largest]
    np.testing.assert_array_equal(often[largest], once[largest])


def test_targets_and_peaks(network: Any) -> None:
    names = _core.targets()
    assert names[-1] == "SCALAR"
    assert network.session().target == names[0]
    with pytest.raises(ValueError, match=r"unknown target 'Z80'; this machine runs .*SCALAR"):
        network.session(target="Z80")
    with pytest.raises(ValueError, match="threads"):
        network.session(threads=0)
    with pytest.raises(ValueError, match="peak"):
        _core.peak("steam", names[0])
    for kind in ("shuffle", "pairs", "popcount", "fp32"):
        assert _core.peak(kind, names[0]) > 1e8


def test_an_unknown_algorithm_is_named(network: Any) -> None:
    with pytest.raises(ValueError, match="unknown algorithm 'fastest' for SCALAR"):
        network.session(target="SCALAR", algorithm="fastest", threads=1)


def test_wrong_images(network: Any) -> None:
    session = network.session()
    with pytest.raises(ValueError, match=r"\[N, 3, 12, 11\]"):
        session.run(np.zeros((1, 3, 11, 12), np.float32))
    for wrong in (
        np.zeros((1, 3, 12, 11)),
        np.zeros((3, 12, 11), np.float32),
        np.zeros((1, 3, 11, 12), np.float32).swapaxes(2, 3),
    ):
        with pytest.raises(TypeError):
            session.run(wrong)


def a_gain_of_40_for_70(document: Any, tensors: Any) -> None:
    document["buffers"].append({"kind": "vector", "shape": [40]})
    gain = len(document["buffers"]) - 1
    document["ops"].insert(2, {"type": "global_avg_pool", "name": "gain", "input": 1, "output": gain})
    document["ops"][3]["epilogue"]["gain"] = gain


MALFORMED: list[tuple[str, Any, str]] = [
    ("read before", lambda d, t: d["ops"].reverse(), "before it is written"),
    ("no buffer", lambda d, t: d["ops"][1].update(input=99), "is not a buffer"),
    ("negative buffer", lambda d, t: d["ops"][1].update(input=-1), "is not a buffer"),
    ("kind", lambda d, t: d["ops"][1].update(input=1), "wrong kind"),
    ("written twice", lambda d, t: d["ops"][1]["epilogue"].update(map=1), "written twice"),
    ("shift", lambda d, t: d["ops"][2]["branches"][0].update(shift="up"), "shift"),
    ("stride", lambda d, t: d["ops"][1].update(stride=[0, 1]), "stride"),
    ("padding", lambda d, t: d["ops"][1].update(padding=[3, 1]), "padding"),
    ("huge stride", lambda d, t: d["ops"][1].update(stride=[2**31, 1]), "stride"),
    ("size", lambda d, t: d["ops"][1].update(padding=[0, 0]), "wrong size"),
    ("tensor", lambda d, t: d["ops"][1]["branches"][0].update(weight="gone"), "not there"),
    ("dtype", lambda d, t: t.update({k: v.astype(np.float64) for k, v in t.items()}), "dtype"),
    ("shape", lambda d, t: t.update({d["ops"][1]["branches"][0]["scale"]: np.zeros(39, np.float32)}), "wrong shape"),
    ("padding bits", lambda d, t: t[d["ops"][1]["branches"][0]["weight"]].fill(0xFFFFFFFF), "padding bits"),
    ("missing key", lambda d, t: d["ops"][1].pop("stride"), "has no 'stride'"),
    ("type", lambda d, t: d["ops"][1].update(type="magic"), "unknown type"),
    ("dimension", lambda d, t: d["buffers"][1].update(shape=[0, 1, 1]), "dimension"),
    ("large", lambda d, t: d["buffers"][1].update(shape=[65536, 65536, 1]), r"2\^31"),
    ("second image", lambda d, t: d["buffers"][1].update(kind="image"), "image"),
    ("branches", lambda d, t: d["ops"][1].update(branches=[]), "branches"),
    ("gain", lambda d, t: d["ops"][1]["epilogue"].update(gain=1), "epilogue.gain is a buffer of the wrong kind"),
    ("gain's length", a_gain_of_40_for_70, "epilogue.gain has the wrong length"),
    ("no result", lambda d, t: d["ops"][1]["epilogue"].update(map=None, bits=[]), "no result"),
    ("output", lambda d, t: d["outputs"][0].update(buffer=1), "wrong kind"),
    ("no outputs", lambda d, t: d["outputs"].clear(), "outputs"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed_programs(network: Any, change: Any, message: str) -> None:
    document, tensors = copy.deepcopy(network.document()), copy.deepcopy(network.tensors)
    change(document, tensors)
    with pytest.raises(ValueError, match=message):
        _core.Session(*(document[key] for key in ("buffers", "ops")), tensors, document["inputs"], document["outputs"])


def test_padding_must_not_make_small_bits_large(new_network: Any) -> None:
    """A file of some kilobytes once asked for 69 GB of scratch memory."""
    network = new_network(0, 1, 65536, 1)
    network.start(160, map=False, bits=[(False, None)])
    strided = network.binary_conv2d(network.bits[0], 1, (1, 255), (255, 255), (0, 254))
    network.outputs = [network.simple("global_avg_pool", "vector", [1], input=strided)]
    with pytest.raises(ValueError, match=r"2\^27 words"):
        network.session()


@pytest.mark.parametrize("kind", ["conv2d", "binary_conv2d", "elementwise", "linear"])
def test_many_ops_must_not_make_small_weights_large(new_network: Any, kind: str) -> None:
    """A file of some hundred kilobytes once asked for 33 GB; the core and the reader refuse it at the same op."""
    network = new_network(0, *((65536, 1, 1) if kind == "elementwise" else (1, 256, 256)))
    if kind == "conv2d":
        network.conv2d(network.image, 1, (255, 255), stride=(2, 2))
    elif kind == "binary_conv2d":
        network.start(1, map=False, bits=[(False, None)])
        network.binary_conv2d(network.bits[0], 1, (255, 255), stride=(2, 2), shifts=("none", "none"))
    elif kind == "elementwise":
        network.elementwise(network.simple("transpose", "map", [1, 1, 65536], input=network.image))
    else:
        flat = network.flatten(network.simple("transpose", "map", [256, 256, 1], input=network.image))
        network.simple("linear", "vector", [1], input=flat, weight=network.reals(1, 65536), bias=None)
    for _ in range(300):
        op = copy.deepcopy(network.ops[-1]) | {"name": f"op{len(network.ops)}"}
        result = network.buffer(network.buffers[-1]["kind"], *network.shape(-1))
        op.get("epilogue", op)["output" if kind == "linear" else "map"] = result
        network.ops.append(op)
    with pytest.raises(ProgramError, match="values are kept for the kernels") as refused:
        validate(from_json(network.document(), network.tensors))
    name = str(refused.value).split()[2].rstrip(":")
    with pytest.raises(ValueError, match=rf"op {name}: more than 2\^29 values are kept for the kernels"):
        network.session()
