"""What clients share: batches, the queue, decoders and memory; one that stalls or leaves costs the others nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import anyio
import pytest

from bcdnet.runtime import InferenceSession
from bcdnet.serve import Settings, api, shell
from bcdnet.serve.refusal import RefusalError
from bcdnet.serve.upload import Intake

PNG = {"Content-Type": "image/png"}


class Slow:
    """Stands in for a session's run: waits for permission, counts the images of each batch."""

    def __init__(self, session: InferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []
        run = session.run

        def slow(names, feed):
            self.batches.append(len(feed["image"]))
            assert self.go.wait(30)
            return run(names, feed)

        monkeypatch.setattr(session, "run", slow)


def slowed(client, monkeypatch) -> Slow:
    (batcher,) = client.app.state.service.batchers.values()
    return Slow(batcher.model.session, monkeypatch)


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_requests_are_gathered_into_batches(serving, png, monkeypatch) -> None:
    client = serving(batch=4, wait_seconds=1)
    slow = slowed(client, monkeypatch)
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(client.post, "/v1/predict", content=png(), headers=PNG)]
        until(lambda: slow.batches == [1])  # alone: nobody else was on the way, so that it did not wait
        answers += [pool.submit(client.post, "/v1/predict", content=png(seed=n), headers=PNG) for n in range(8)]
        (batcher,) = client.app.state.service.batchers.values()
        until(lambda: batcher._held == 9)
        slow.go.set()
        images = [answer.result().json()["images"][0] for answer in answers]
    assert sum(slow.batches) == 9 and max(slow.batches) == 4 and len(slow.batches) <= 4
    assert {image["batch"] for image in images} <= {1, 2, 3, 4}
    assert batcher._held == batcher._coming == 0


def test_a_full_queue_says_when_to_come_again(serving, png, monkeypatch) -> None:
    client = serving(queue=2, images=2)
    slow = slowed(client, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(client.post, "/v1/predict", content=png(), headers=PNG) for _ in range(2)]
        (batcher,) = client.app.state.service.batchers.values()
        until(lambda: batcher._held == 2)
        response = client.post("/v1/predict", content=png(), headers=PNG)
        assert response.status_code == 503 and "try again" in response.json()["error"]
        assert response.headers["Retry-After"] == "1"
        assert 'bcdnet_queue_images{model="small"} 2.0' in client.get("/metrics").text
        slow.go.set()
        assert [answer.result().status_code for answer in taken] == [200, 200]
    assert client.post("/v1/predict", content=png(), headers=PNG).status_code == 200
    files = [("image", ("x.png", png())) for _ in range(3)]
    assert client.post("/v1/predict", files=files).status_code == 413


def test_a_request_that_takes_too_long_gives_its_place_back(serving, png, monkeypatch) -> None:
    client = serving(seconds=0.2, queue=2, images=2)
    slow = slowed(client, monkeypatch)
    for _ in range(3):
        response = client.post("/v1/predict", content=png(), headers=PNG)
        assert response.status_code == 408 and "longer than 0.2 seconds" in response.json()["error"]
    slow.go.set()
    (batcher,) = client.app.state.service.batchers.values()
    assert client.post("/v1/predict", content=png(), headers=PNG).status_code == 200
    assert batcher._held == batcher._coming == 0


async def predict(app, receive: Callable[[], Awaitable[dict]]) -> int:
    """The status of the answer to a client that sends what `receive` gives."""
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"image/png")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"]


def test_a_body_that_never_comes(serving, monkeypatch) -> None:
    monkeypatch.setattr(shell, "DRAIN_SECONDS", 0.1)
    client = serving(seconds=0.2)
    assert client.portal.call(predict, client.app, anyio.sleep_forever) == 408


def test_uploads_that_stall_take_no_place_and_no_time(serving, png) -> None:
    """As many as the queue has places once gave everybody 503, and a single one cost each client the wait."""
    client = serving(queue=2, images=2, batch=4, wait_seconds=1)
    stalled, leave = [], client.portal.call(anyio.Event)

    async def receive() -> dict:
        if len(stalled) < 3:
            stalled.append(True)
            return {"type": "http.request", "body": b"x", "more_body": True}
        await leave.wait()
        return {"type": "http.disconnect"}

    statuses = [client.portal.start_task_soon(predict, client.app, receive) for _ in range(3)]
    until(lambda: len(stalled) == 3)
    response = client.post("/v1/predict", content=png(), headers=PNG)
    client.portal.call(leave.set)
    assert response.status_code == 200 and response.json()["images"][0]["milliseconds"]["wait"] < 500
    assert [status.result() for status in statuses] == [400] * 3


def test_milliseconds_tell_waiting_from_running(serving, png, monkeypatch) -> None:
    client = serving()
    (batcher,) = client.app.state.service.batchers.values()
    session, run = batcher.model.session, batcher.model.session.run
    monkeypatch.setattr(session, "run", lambda *given: (time.sleep(0.5), run(*given))[1])
    spent = client.post("/v1/predict", content=png(), headers=PNG).json()["images"][0]["milliseconds"]
    assert 500 <= spent["run"] < 20_000 and spent["wait"] < 500


def test_metrics_count_images(serving, png) -> None:
    client = serving(wait_seconds=1)
    client.post("/v1/predict", files=[("image", (f"{n}.png", png(seed=n))) for n in range(3)])
    assert 'bcdnet_images_total{model="small"} 3.0' in client.get("/metrics").text


def test_workers_run_batches_side_by_side(serving, png, monkeypatch) -> None:
    client = serving(workers=2, batch=1)  # else one worker may take both
    (batcher,) = client.app.state.service.batchers.values()
    session, run, both = batcher.model.session, batcher.model.session.run, threading.Barrier(2)
    monkeypatch.setattr(session, "run", lambda *given: (both.wait(20), run(*given))[1])
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.post, "/v1/predict", content=png(), headers=PNG) for _ in range(2)]
        assert [answer.result().status_code for answer in answers] == [200, 200]


def test_the_bytes_of_all_bodies_are_bounded() -> None:
    intake = Intake(Settings(body_bytes=500, queue=2, images=1))

    def status(count: Callable[[int], None], size: int) -> int:
        with pytest.raises(RefusalError) as refusal:
            count(size)
        return refusal.value.status

    with intake.body() as one, intake.body() as two, intake.body() as three:
        for count, size in ((one, 500), (two, 200), (two, 200), (three, 100)):
            count(size)
        assert status(three, 1) == 503 and status(one, 1) == 413
    assert intake._held == 0


def test_the_last_images_of_a_request_wait_for_none(serving, png) -> None:
    """Those of its images that were answered once counted as still to come."""
    client = serving(batch=4, wait_seconds=1)
    files = [("image", (f"{seed}.png", png(seed=seed))) for seed in range(6)]
    images = client.post("/v1/predict", files=files).json()["images"]
    assert max(image["batch"] for image in images) > 1
    assert max(image["milliseconds"]["wait"] for image in images) < 500


def test_a_request_of_many_images_leaves_room_at_the_decoders(serving, png, monkeypatch) -> None:
    client = serving()
    go, names, open_image = threading.Event(), [], api.open_image

    def slow(data, name, **options):
        names.append(name)
        assert go.wait(30)
        return open_image(data, name, **options)

    monkeypatch.setattr(api, "open_image", slow)
    with ThreadPoolExecutor(2) as decoders, ThreadPoolExecutor(2) as pool:
        client.app.state.service = replace(client.app.state.service, decoders=decoders, share=2)
        files = [("image", (f"{number}", png())) for number in range(6)]
        many = pool.submit(client.post, "/v1/predict", files=files)
        until(lambda: len(names) == 2)
        one = pool.submit(client.post, "/v1/predict", content=png(), headers=PNG)
        until(lambda: decoders._work_queue.qsize() == 1)
        go.set()
        assert one.result().status_code == many.result().status_code == 200
    assert names[2] == "image"


def test_a_client_that_left_is_not_computed_for(serving, png) -> None:
    client = serving()
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": png()}]

    async def receive() -> dict:
        return messages.pop()

    assert client.portal.call(predict, client.app, receive) == 400
    assert 'bcdnet_images_total{model="small"}' not in client.get("/metrics").text
    (batcher,) = client.app.state.service.batchers.values()
    assert batcher._held == batcher._coming == 0
