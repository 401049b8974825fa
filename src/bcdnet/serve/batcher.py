"""Gathers the images of many requests into small batches for one model.

Worker threads take what waits; the session releases Python's lock while it runs. A batch waits for more images only
while some whose bytes are here are still being decoded, and never longer than the bound, so that a lone client pays
nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt

from bcdnet.errors import DataError
from bcdnet.runtime import Prediction
from bcdnet.serve.loaded import Loaded
from bcdnet.serve.metrics import Metrics
from bcdnet.serve.refusal import FULL, RefusalError
from bcdnet.serve.settings import Settings

Array = npt.NDArray[np.float32]
# Queues one admitted image, float32 [C, H, W].
Submit = Callable[[Array], "Future[Answer]"]


@dataclass(frozen=True, eq=False)
class Answer:
    """For one image: predictions, best first, their maps [h, w] if asked for, and seconds spent waiting and running."""

    predictions: list[Prediction]
    maps: list[Array] | None
    waited: float
    ran: float
    batch: int


@dataclass(frozen=True, eq=False)
class _Item:
    x: Array
    topk: int
    cam: bool
    future: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=perf_counter)


class Batcher:
    """The queue of one model and its worker threads."""

    def __init__(self, model: Loaded, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self._settings = settings
        self._metrics = metrics
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held = 0  # images of requests that are not answered yet
        self._coming = 0  # those of them that are still to be submitted
        metrics.watch_depth(model.name, lambda: self._held)
        self._workers = [
            threading.Thread(target=self._work, name=f"bcdnet-{model.name}-{number}", daemon=True)
            for number in range(settings.workers)
        ]
        for worker in self._workers:
            worker.start()

    def check(self, images: int) -> None:
        """Raise RefusalError (503) where so many images do not fit now."""
        if self._held + images > self._settings.queue:
            raise RefusalError(503, FULL, 1)

    @contextmanager
    def admit(self, images: int, topk: int, cam: bool) -> Iterator[Submit]:
        """Hold places for so many images, which the yielded function takes one by one. Raises RefusalError (503)."""
        coming = images

        def submit(x: Array) -> Future[Answer]:
            nonlocal coming
            item = _Item(x, topk, cam)
            with self._lock:  # no worker sees the image both queued and coming
                self._items.put(item)
                self._coming -= 1
                coming -= 1
            return item.future

        with self._lock:
            self.check(images)
            self._held += images
            self._coming += images
        try:
            yield submit
        finally:
            with self._lock:
                self._held -= images
                self._coming -= coming

    def close(self) -> None:
        """Finish what was submitted, then end the threads."""
        for _ in self._workers:
            self._items.put(None)
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while (first := self._items.get()) is not None:
            self._run([item for item in self._gather(first) if item.future.set_running_or_notify_cancel()])

    def _gather(self, first: _Item) -> list[_Item]:
        batch = [first]
        deadline = perf_counter() + self._settings.wait_seconds
        while len(batch) < self._settings.batch:
            with self._lock:
                patience = deadline - perf_counter() if self._coming else 0.0
            try:
                item = self._items.get(timeout=patience) if patience > 0 else self._items.get_nowait()
            except queue.Empty:
                break
            if item is None:
                # The end is for the loop to see, after this batch.
                self._items.put(None)
                break
            batch.append(item)
        return batch

    def _run(self, items: list[_Item]) -> None:
        if not items:
            return
        begin = perf_counter()
        try:
            answers = self._answer(items, begin)
        except BaseException as error:
            for item in items:
                item.future.set_exception(error)
            return
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, DataError):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)

    def _answer(self, items: list[_Item], begin: float) -> list[Answer | DataError]:
        session, name = self.model.session, self.model.name
        x = np.stack([item.x for item in items])
        features: Array | None = None
        if any(item.cam for item in items):
            logits, features = session.run_maps(x)
        else:
            logits = session.run(None, {session.get_inputs()[0].name: x})[0]
        ran = perf_counter() - begin
        self._metrics.batches.labels(name).observe(len(items))
        self._metrics.run_seconds.labels(name).observe(ran)
        self._metrics.images.labels(name).inc(len(items))
        answers: list[Answer | DataError] = []
        for row, item in enumerate(items):
            try:
                (predictions,) = session.rank(logits[row : row + 1], item.topk)
            except DataError as error:  # logits that are not finite, of which the batch's others know nothing
                answers.append(error)
                continue
            maps = None
            if item.cam and features is not None:
                maps = list(session.cams(features[row], [best.index for best in predictions]))
            answers.append(Answer(predictions, maps, begin - item.arrived, ran, len(items)))
        return answers
