"""Predictions for any number of images: threads decode ahead while the session runs batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from bcdnet.errors import BcdnetError, DataError
from bcdnet.machine import available_threads
from bcdnet.runtime.prediction import Prediction, check_topk
from bcdnet.runtime.preprocess import for_images, to_input
from bcdnet.runtime.session import InferenceSession
from bcdnet.runtime.sources import Source

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[np.float32]
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one source: its predictions, best first, or the `error` that kept it from being read.

    `image` is the upright picture where it was asked for.
    """

    source: Source
    predictions: list[Prediction]
    error: str | None = None
    image: Image | None = None


@dataclass(frozen=True, eq=False)
class _Decoded:
    source: Source
    x: Array | None
    error: str | None
    image: Image | None


def predict_stream(
    session: InferenceSession,
    sources: Iterable[Source],
    *,
    topk: int = 5,
    batch: int = 16,
    decoders: int | None = None,
    keep_images: bool = False,
) -> Iterator[Outcome]:
    """One `Outcome` for each source, in their order; an image that cannot be read costs no other.

    At most four batches are decoded ahead, by `decoders` threads (by default one for each CPU that the process may
    use), which nobody waits for once the stream is left: an image that never comes does not keep the process. With
    `keep_images` it is one for each thread, and so is a batch: a photo of 12 megapixels takes 36 MB. Raises DataError
    for a file that says nothing of preprocessing, or takes no images; BcdnetError where no thread can be started.
    """
    preprocess = for_images(session.preprocess)
    check_topk(topk)
    if batch < 1:
        raise DataError(f"batch: at least 1, not {batch}")

    def decode(source: Source) -> _Decoded:
        try:
            image = source.open()
            return _Decoded(source, to_input(image, preprocess, source.name), None, image if keep_images else None)
        except (DataError, MemoryError) as error:
            return _Decoded(source, None, str(error) or f"{source.name}: needs more memory than there is", None)

    decoders = decoders or available_threads()
    batch, depth = (min(batch, decoders), decoders) if keep_images else (batch, 4 * batch)
    gathered: list[_Decoded] = []
    for decoded in _ahead(decode, sources, depth, decoders):
        gathered.append(decoded)
        if len(gathered) == batch:
            yield from _run(session, gathered, topk)
            gathered = []
    yield from _run(session, gathered, topk)


def _ahead(function: Callable[[In], Out], items: Iterable[In], depth: int, threads: int) -> Iterator[Out]:
    """`map` in order, by threads, with at most `depth` results under way; leaving it early drops the rest."""
    tasks: SimpleQueue[tuple[In, Future[Out]] | None] = SimpleQueue()
    waiting: deque[Future[Out]] = deque()
    started: list[Thread] = []

    def work() -> None:
        while (task := tasks.get()) is not None:
            item, future = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(item))
                except BaseException as error:  # which is of whom waits for the result
                    future.set_exception(error)

    def submit(item: In) -> None:
        waiting.append(Future())
        tasks.put((item, waiting[-1]))
        if len(started) < threads:
            # Not ThreadPoolExecutor's, which a process waits for at its end, as long as one of them may be reading.
            thread = Thread(target=work, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # those that there are do it all
                if not started:
                    raise BcdnetError(f"{error}, which images are read by; raise this process's limit") from None
            else:
                started.append(thread)

    remaining = iter(items)
    try:
        for item in islice(remaining, depth):
            submit(item)
        while waiting:
            done = waiting.popleft().result()
            for item in islice(remaining, 1):
                submit(item)
            yield done
    finally:
        for future in waiting:
            future.cancel()
        for _ in started:
            tasks.put(None)


def _run(session: InferenceSession, gathered: list[_Decoded], topk: int) -> Iterator[Outcome]:
    ranked = rank_inputs(session, [decoded.x for decoded in gathered], topk)
    for decoded, predictions in zip(gathered, ranked, strict=True):
        yield Outcome(decoded.source, predictions, decoded.error, decoded.image)


def rank_inputs(session: InferenceSession, inputs: Sequence[Array | None], topk: int) -> list[list[Prediction]]:
    """One batch of normalised images float32 [C, H, W], as `InferenceSession.rank` ranks their classes.

    None, for an image that could not be read, gets no predictions. Raises DataError for logits that are not finite.
    """
    read = [x for x in inputs if x is not None]
    if not read:
        return [[] for _ in inputs]
    ranked = iter(session.rank(session.run(None, {session.get_inputs()[0].name: np.stack(read)})[0], topk))
    return [[] if x is None else next(ranked) for x in inputs]
