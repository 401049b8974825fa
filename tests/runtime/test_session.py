"""The session against the numpy executor, its errors, and preprocessing against training's."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bcdnet.nn as bnn
from bcdnet.compiler import export
from bcdnet.data import DataConfig, evaluate_transform
from bcdnet.data.resize import to_pixels
from bcdnet.errors import BcdnetError, DataError, ProgramError
from bcdnet.program import execute, read_program
from bcdnet.program.schema import Preprocess
from bcdnet.runtime.preprocess import as_images, to_input

pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")

from bcdnet.runtime import InferenceSession, available_targets

PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "crop_pct": 0.875}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), bnn.ContextualConvBlock(32, 32, 3), bnn.BinaryMLPBlock(32),
        bnn.ContextualConvBlock(32, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 6),
    ).eval()  # fmt: skip
    path = tmp_path_factory.mktemp("packed") / "x.bcdn"
    return export(network, path, input_size=(3, 16, 16), labels=list("abcdef"), preprocess=PREPROCESS)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("target", available_targets())
def test_every_target_and_thread_count_gives_the_oracles_bits(packed, images, target, threads) -> None:
    session = InferenceSession(packed, threads=threads, target=target)
    assert session.target == target and session.threads == threads
    (ours,) = session.run(None, {"image": images})
    np.testing.assert_array_equal(ours, execute(read_program(packed), images)[0])


def test_all_cpus_that_the_process_may_use_are_used(packed, monkeypatch) -> None:
    monkeypatch.setattr("bcdnet.runtime.session.available_threads", lambda: 3)
    assert InferenceSession(packed).threads == 3


def test_describes_itself_as_onnx_runtime_does(packed) -> None:
    session = InferenceSession(packed, threads=1)
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape, entry.type) == ("image", ["N", 3, 16, 16], "tensor(float)")
    assert (result.name, result.shape) == ("logits", ["N", 6])
    assert session.labels == tuple("abcdef")


def test_many_threads_share_a_session(packed, images) -> None:
    session = InferenceSession(packed, threads=2)
    expected = session.run(None, {"image": images})[0]
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: session.run(["logits"], {"image": images})[0], range(24)):
            np.testing.assert_array_equal(result, expected)


def test_the_core_reads_no_number_across_its_alignment(packed, images) -> None:
    """As one of a file that is mapped into memory may lie."""
    odd = np.frombuffer(b"\0" + images.tobytes(), np.uint8)[1:].view(np.float32).reshape(images.shape)
    session = InferenceSession(packed, threads=1)
    assert not odd.flags.aligned and session._input({"image": odd}).flags.aligned
    np.testing.assert_array_equal(session.run(None, {"image": odd}), session.run(None, {"image": images}))


def test_profile_and_debug(packed, images) -> None:
    session = InferenceSession(packed, threads=1)
    rows = session.profile({"image": images})
    assert [row.name for row in rows] == [op.name for op in session.program.ops]
    assert all(row.seconds >= 0 and row.cost.bytes > 0 for row in rows)
    # 8 x 8 positions: the stem, then 3x3, three branches of 1x1, 1x1 with twice the outputs, and the head.
    assert sum(row.cost.binary_macs for row in rows) == 64 * 32 * 32 * (9 + 3 + 2)
    assert sum(row.cost.float_macs for row in rows) == 64 * 32 * 27 + 64 * 6
    port = session.program.outputs[0].buffer
    np.testing.assert_array_equal(
        session.debug({"image": images}, [port])[port], session.run(None, {"image": images})[0]
    )
    assert list(session.debug({"image": images}, np.array([port]))) == [port]
    for buffer in (session.program.inputs[0].buffer, 999, -1, 2**40, 1.0, "a"):
        with pytest.raises(DataError, match=str(buffer)):
            session.debug({"image": images}, [buffer])


def test_predict(packed) -> None:
    session = InferenceSession(packed, threads=1)
    pictures = [np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8) for i in range(2)]
    rows = session.predict(pictures, topk=3)
    logits = session.run_images([Image.fromarray(picture) for picture in pictures])[0]
    assert [row[0].index for row in rows] == logits.argmax(1).tolist()
    assert all(len(row) == 3 and row[0].probability >= row[1].probability >= row[2].probability for row in rows)
    assert rows[0][0].label == "abcdef"[rows[0][0].index]
    assert sum(entry.probability for entry in session.predict(pictures, topk=99)[0]) == pytest.approx(1)


def test_outputs_come_in_the_order_that_is_asked_for(tmp_path, images) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            pooled = self.conv(x).mean((2, 3))
            return {"logits": self.linear(pooled), "pooled": pooled}

    path = export(Two().eval(), tmp_path / "x.bcdn", input_size=(3, 16, 16), preprocess=PREPROCESS)
    session = InferenceSession(path, threads=1)
    logits, pooled = session.run(None, {"image": images})
    assert (logits.shape, pooled.shape) == ((5, 6), (5, 8))
    for names, expected in (
        (["pooled", "logits"], (pooled, logits)),
        (["pooled"], (pooled,)),
        ([], (logits, pooled)),
    ):
        for ours, theirs in zip(session.run(names, {"image": images}), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    picture = Image.new("RGB", (16, 16), "red")
    assert len(session.predict(picture, topk=99)[0]) == 6 and session.cam_problem is None


def test_images_may_lie_in_memory_in_any_order(packed, images) -> None:
    session = InferenceSession(packed, threads=1)
    expected = session.run(None, {"image": images})[0]
    for same in (np.asfortranarray(images), images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
        np.testing.assert_array_equal(session.run(None, {"image": same})[0], expected)
    np.testing.assert_array_equal(session.run(None, {"image": images[::2]})[0], expected[::2])


def test_one_image_alone_is_a_list_of_one(packed, tmp_path) -> None:
    session = InferenceSession(packed, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    expected = session.predict([pixels], topk=2)
    for alone in (pixels, picture, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert session.predict(alone, topk=2) == expected
    greys = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 1), np.uint8)
    assert session.predict(greys[1]) == [session.predict(greys)[1]] and len(session.predict(greys)) == 4
    assert session.predict(greys[1][..., 0]) == session.predict(greys[1])
    seen = np.dstack([pixels, greys[0]])
    assert session.predict(seen) == session.predict(Image.fromarray(seen))
    with pytest.raises(DataError, match=r"an array \[3, 20, 30\] is no image"):
        session.predict(pixels.transpose(2, 0, 1))
    grey_and_alpha = np.zeros((20, 30, 2), np.uint8)
    assert len(as_images(grey_and_alpha, 1)) == 1  # it was 20 images of a network of greys
    with pytest.raises(DataError, match="must be uint8"):
        session.predict(grey_and_alpha)
    for nothing in ([], np.zeros((0, 20, 30, 3), np.uint8)):
        with pytest.raises(DataError, match="no images"):
            session.predict(nothing)
    with pytest.raises(DataError, match="must not be empty"):
        session.predict(Image.new("RGB", (0, 0)))
    with pytest.raises(DataError, match="expected a Pillow image"):
        session.predict([7])
    assert session.cam(pixels, np.int64(2)).tolist() == session.cam(pixels, 2).tolist()


BAD_FEEDS = {
    "name": ({"x": np.zeros((1, 3, 16, 16), np.float32)}, "expected the one input 'image'"),
    "none": ({}, "expected the one input 'image', got none"),
    "dtype": ({"image": np.zeros((1, 3, 16, 16))}, "float32 array, got float64"),
    "list": ({"image": [0.0]}, "float32 array, got list"),
    "shape": ({"image": np.zeros((1, 3, 16, 17), np.float32)}, "expected shape"),
    "rank": ({"image": np.zeros((3, 16, 16), np.float32)}, "expected shape"),
    "empty": ({"image": np.zeros((0, 3, 16, 16), np.float32)}, "N >= 1"),
    "nan": ({"image": np.full((1, 3, 16, 16), np.nan, np.float32)}, "every value must be finite"),
    "infinity": ({"image": np.full((1, 3, 16, 16), np.inf, np.float32)}, "every value must be finite"),
}


@pytest.mark.parametrize("case", BAD_FEEDS)
def test_one_clear_error_for_a_bad_input(case, packed) -> None:
    feed, message = BAD_FEEDS[case]
    with pytest.raises(DataError, match=message):
        InferenceSession(packed, threads=1).run(None, feed)


def test_the_first_value_that_is_not_finite_is_named_with_its_place(packed, images) -> None:
    x = images.copy()
    x[1, 2, 3, 5], x[1, 2, 4, 0], x[4, 0, 0, 0] = np.nan, -np.inf, np.inf
    session = InferenceSession(packed, threads=1)
    with pytest.raises(DataError, match=r"^'image': holds nan at \[1, 2, 3, 5\]; every value must be finite$"):
        session.run(None, {"image": x})


def test_one_clear_error_for_a_bad_file_or_option(packed, tmp_path) -> None:
    with pytest.raises(BcdnetError, match="unknown target 'AVX9'"):
        InferenceSession(packed, target="AVX9")
    with pytest.raises(BcdnetError, match="threads: must be 1 to 1024"):
        InferenceSession(packed, threads=0)
    with pytest.raises(BcdnetError, match="threads: must be 1 to 1024, got 1025"):
        InferenceSession(packed, threads=1025)
    with pytest.raises(ProgramError, match="no such file"):
        InferenceSession(tmp_path / "none.bcdn")
    (tmp_path / "cut.bcdn").write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ProgramError, match="not a complete"):
        InferenceSession(tmp_path / "cut.bcdn")
    session = InferenceSession(packed, threads=1)
    with pytest.raises(DataError, match="unknown output 'y'"):
        session.run(["y"], {"image": np.zeros((1, 3, 16, 16), np.float32)})
    for bad in (np.zeros((4, 4, 3)), np.zeros((4, 4, 5, 3, 1), np.uint8), "none.png", 3):
        with pytest.raises(DataError):
            session.run_images([bad])  # type: ignore[list-item]


def test_a_missing_core_names_the_remedy(packed, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bcdnet.runtime._core", None)
    monkeypatch.delattr("bcdnet.runtime._core", raising=False)
    with pytest.raises(BcdnetError, match="pip install"):
        InferenceSession(packed)


def test_a_missing_client_of_the_hub_does_too(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BcdnetError, match=r"^hf-hub:a/b: needs huggingface_hub: pip install 'bcdnet\[hub\]'$"):
        InferenceSession("hf-hub:a/b")


def test_lack_of_memory_names_the_file(packed, monkeypatch) -> None:
    monkeypatch.setattr("bcdnet.runtime._core.Session", Mock(side_effect=MemoryError("std::bad_alloc")))
    with pytest.raises(MemoryError, match=r"x\.bcdn: its weights take more than there is"):
        InferenceSession(packed)


@pytest.mark.parametrize("size", [(40, 30), (30, 47), (32, 32), (33, 64), (16, 16), (200, 31)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct, side", [(0.875, 32), (1.0, 32), (0.9, 27)])
def test_preprocessing_is_that_of_evaluation_bit_for_bit(size, interpolation, crop_pct, side) -> None:
    config = DataConfig(
        "digits", side, crop_pct=crop_pct, interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    pixels = torch.from_numpy(to_pixels(picture, config, side, "x").copy())
    theirs = evaluate_transform(pixels[None], config)[0].numpy()
    ours = to_input(picture, Preprocess((3, side, side), config.mean, config.std, interpolation, crop_pct))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "I", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes(mode, channels) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    picture = wide if mode == "I;16" else Image.fromarray(grey).convert(mode)
    constants = ((0.5,) * channels, (0.25,) * channels)
    config = DataConfig("digits", 12, channels=channels, mean=constants[0], std=constants[1])
    theirs = evaluate_transform(torch.from_numpy(to_pixels(picture, config, 12, "x").copy())[None], config)[0].numpy()
    np.testing.assert_array_equal(
        to_input(picture, Preprocess((channels, 12, 12), *constants, "bilinear", 1.0)), theirs
    )


def test_eight_bits_are_what_they_are_in_a_wider_image() -> None:
    """An image of 32-bit integers that go to 255 once became black."""
    grey = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    preprocess = Preprocess((1, 12, 12), (0.5,), (0.25,), "bilinear", 1.0)
    expected = to_input(grey, preprocess)
    for wide in (Image.fromarray(grey.astype(np.int32)), Image.fromarray(grey.astype(np.int32) * 257)):
        np.testing.assert_array_equal(to_input(wide, preprocess), expected)


def test_prediction_never_imports_torch(packed) -> None:
    code = (
        "import sys, numpy; from bcdnet.runtime import InferenceSession\n"
        f"InferenceSession({str(packed)!r}, threads=1).predict([numpy.zeros((20, 20, 3), numpy.uint8)])\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's address space")
def test_threads_that_cannot_start_are_an_error(packed) -> None:
    """In a process of its own, which cannot lift its limit again. It once ended there: `terminate called`."""
    code = f"""
import resource
from bcdnet.errors import BcdnetError
from bcdnet.runtime import InferenceSession
InferenceSession({str(packed)!r}, threads=1)
size = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))
try:
    InferenceSession({str(packed)!r}, threads=1000)
except BcdnetError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot start 1000 threads (") and done.stdout.endswith("threads=1\n")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not count threads there")
def test_the_child_of_a_fork_during_a_run_has_locks_of_its_own(packed) -> None:
    """The thread that ran in the parent, and held them, is not there to let them go."""
    code = f"""
import os, sys, threading, time
import numpy as np
from bcdnet.runtime import InferenceSession
session = InferenceSession({str(packed)!r}, threads=2)
name = session.get_inputs()[0].name
feed, long = ({{name: np.ones((count, 3, 16, 16), np.float32)}} for count in (2, 40_000))
before = session.run(None, feed)[0]
running = threading.Thread(target=session.run, args=(None, long))
running.start()
time.sleep(0.1)
child = os.fork()
if not child:
    same = np.array_equal(session.run(None, feed)[0], before)
    os._exit(0 if same and len(os.listdir("/proc/self/task")) == 2 else 3)
print(running.is_alive(), os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True 0\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_the_child_of_a_fork_runs_and_drops_an_inherited_session(packed) -> None:
    """It once ended with a signal: the threads that it would have joined are its parent's."""
    code = f"""
import os, sys
import numpy as np
from bcdnet.runtime import InferenceSession
sessions = [InferenceSession({str(packed)!r}, threads=8) for _ in range(2)]
feed = {{sessions[0].get_inputs()[0].name: np.ones((2, 3, 16, 16), np.float32)}}
before = sessions[0].run(None, feed)[0]
child = os.fork()
if not child:
    same = np.array_equal(sessions[0].run(None, feed)[0], before) and sessions[0].threads == 8
    sessions.clear()  # of the second, nothing was run here
    sys.exit(0 if same else 3)
same = os.waitpid(child, 0)[1] == 0 and np.array_equal(sessions[1].run(None, feed)[0], before)
print(same)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n", done.stderr


def test_a_daemon_threads_run_does_not_abort_the_interpreters_end(packed) -> None:
    """Coming back, it was unwound through C++: `terminate called without an active exception`."""
    code = f"""
import threading, time
import numpy as np
from bcdnet.runtime import InferenceSession
session = InferenceSession({str(packed)!r}, threads=1)
feed = {{session.get_inputs()[0].name: np.ones((2_000, 3, 16, 16), np.float32)}}
for _ in range(4):
    threading.Thread(target=session.run, args=(None, feed), daemon=True).start()
time.sleep(0.05)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
