"""Predictions of a stream of images: decoding ahead, what is left when nobody waits, errors of one image."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from weakref import finalize

import pytest
from PIL import Image

from bcdnet.errors import BcdnetError, DataError
from bcdnet.runtime import InferenceSession
from bcdnet.runtime.sources import Source
from bcdnet.runtime.stream import predict_stream


@pytest.fixture
def one() -> Source:
    """A picture that needs no file."""
    return Source("one", Path("one.png"), lambda: Image.new("RGB", (30, 20)))


def test_decoding_runs_ahead_but_not_far(packed_file, one) -> None:
    session, opened = InferenceSession(packed_file, threads=1), []

    def endless():
        while True:
            opened.append(one)
            yield one

    stream = predict_stream(session, endless(), batch=2, decoders=2)
    for _ in range(5):
        next(stream)
    assert 6 <= len(opened) <= 5 + 2 + 4 * 2
    stream.close()


def test_few_whole_pictures_are_kept_at_a_time(packed_file) -> None:
    most, alive = 0, set()

    def picture():
        nonlocal most
        image = Image.new("RGB", (30, 20))
        alive.add(id(image))
        finalize(image, alive.discard, id(image))
        most = max(most, len(alive))
        return image

    session, sources = InferenceSession(packed_file, threads=1), [Source("x", Path("x.png"), picture)] * 100
    seen = [outcome.image.size for outcome in predict_stream(session, sources, batch=16, decoders=2, keep_images=True)]
    assert seen == [(30, 20)] * 100 and most <= 2 * 2 + 2  # ahead and in the batch; one passed on, one under way


def test_what_runs_ahead_is_dropped_when_nobody_waits(packed_file, one) -> None:
    opened = []

    def slowly():
        time.sleep(0.02 if len(opened) > 16 else 0)
        opened.append(one)
        return one.open()

    sources = [Source(str(index), Path("x"), slowly) for index in range(200)]
    stream = predict_stream(InferenceSession(packed_file, threads=1), sources, batch=16, decoders=1)
    next(stream)
    stream.close()
    assert 16 <= len(opened) < 16 + 4 * 16


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_limit_on_threads_slows_it_down_at_most(packed_file, one, monkeypatch, allowed) -> None:
    session, start, started = InferenceSession(packed_file, threads=1), Thread.start, []

    def limited(thread: Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(Thread, "start", limited)
    stream = predict_stream(session, [one] * 10, decoders=4)
    if allowed:
        assert len(list(stream)) == 10
    else:
        with pytest.raises(BcdnetError, match="can't start new thread, which images are read by; raise"):
            next(stream)


def test_an_image_that_memory_cannot_hold_costs_no_other(packed_file, one) -> None:
    def large():
        raise MemoryError

    errors = [r.error for r in predict_stream(InferenceSession(packed_file), [Source("x", Path("x"), large), one])]
    assert errors == ["x: needs more memory than there is", None]


def test_a_batch_of_none_is_refused(packed_file, one) -> None:
    with pytest.raises(DataError, match="batch: at least 1, not 0"):
        next(predict_stream(InferenceSession(packed_file), [one], batch=0))


def test_a_bug_is_not_taken_for_a_damaged_image(packed_file, one) -> None:
    def broken():
        raise BcdnetError("the environment is wrong")

    with pytest.raises(BcdnetError, match="the environment is wrong"):
        list(predict_stream(InferenceSession(packed_file), [one, Source("x", Path("x"), broken)]))


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe and sends a signal of POSIX")
def test_waiting_for_an_image_can_be_interrupted(packed_file, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")  # into which nobody writes
    # What runs in the background may have been told to ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from bcdnet.runtime import sources\nread = sources.open_image\n"
    code += "sources.open_image = lambda *a, **b: (print('waiting', flush=True), read(*a, **b))[1]\n"
    code += "from bcdnet.cli.main import main\nmain()"
    arguments = [sys.executable, "-c", code, "predict", packed_file, tmp_path / "pipe"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"waiting\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()
