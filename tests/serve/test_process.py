"""The server as a process: start, mistakes, answers to clients that misbehave on the wire, and its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bcdnet.cli.serve import served_name
from bcdnet.serve.run import listen


@pytest.fixture(scope="module")
def address(packed_file: Path, served):
    with served(packed_file, "--threads", 1, "--max-body-mb", 1, "--timeout", 5) as (address, _):
        yield address


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def head(length: int, *more: str) -> bytes:
    lines = ["POST /v1/predict HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, dict]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def test_a_body_that_is_too_long_still_gets_its_answer(address) -> None:
    """Without reading the rest, closing the connection would reset it, and the client would never see why."""
    with connect(address) as connection:
        connection.sendall(head(1_900_000, "Connection: close"))
        for _ in range(19):  # slower than the answer comes
            connection.sendall(bytes(100_000))
            time.sleep(0.005)
        assert answer(connection) == (413, {"error": "the body is longer than 1,000,000 bytes"})


def test_a_client_that_asks_first_is_refused_before_it_sends(address) -> None:
    with connect(address) as connection:
        connection.sendall(head(10**12, "Expect: 100-continue"))
        assert answer(connection)[0] == 413


def test_clients_that_leave_early_harm_nobody(address, png) -> None:
    for sent in (
        head(500),
        head(500) + bytes(100),
        b"POST /v1/predict HTTP/1.1\r\nHost",
        b"\x16\x03\x01 nonsense\r\n\r\n",
    ):
        with connect(address) as connection:
            connection.sendall(sent)
    with connect(address) as connection:
        connection.sendall(head(len(png())) + png())
        assert answer(connection)[0] == 200
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        text = response.read().decode()
    assert 'status="500"' not in text and 'bcdnet_queue_images{model="small"} 0.0' in text


def test_a_head_that_does_not_come_is_not_waited_for(packed_file, served, png) -> None:
    """Open connections without a request once locked everybody else out."""
    with served(packed_file, "--threads", 1, "--timeout", 0.5) as (address, _):
        with connect(address) as idle, connect(address) as slow, connect(address) as good:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost")
            assert slow.recv(1) == b"" and idle.recv(1) == b""
            good.close()
        with connect(address) as connection:
            for _ in range(2):
                connection.sendall(head(len(png())) + png())
                assert answer(connection)[0] == 200
            connection.sendall(b"GET /healthz HTTP/1.1\r\n")
            assert connection.recv(1) == b""


def test_a_client_that_never_reads_is_not_waited_for(packed_file, served) -> None:
    """It once kept its connection for ever, and at the end of the server a traceback was all that ended it."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with served(packed_file, "--threads", 1, "--timeout", 0.5) as (address, process), connect(address) as deaf:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            deaf.sendall(ask * 600_000)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[1] == ""


def test_more_connections_than_files_harm_nobody(packed_file, served, png) -> None:
    """They once filled the log with tracebacks by the thousand, and the newest got no answer."""
    with served(packed_file, "--threads", 1, files=64) as (address, process), ExitStack() as opened:
        stalled = []
        for _ in range(100):
            stalled.append(opened.enter_context(connect(address)))
            stalled[-1].sendall(head(500) + b"x")
        with connect(address) as connection:
            connection.sendall(head(len(png())) + png())
            assert answer(connection)[0] == 200
        with contextlib.suppress(ConnectionResetError):
            assert stalled[0].recv(1) == b""
        opened.close()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[1] == ""


def test_the_head_of_an_answer_alone(address) -> None:
    with connect(address) as connection:
        for method in ("HEAD", "GET"):
            connection.sendall(f"{method} /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            assert response.status == 200 and response.headers["Content-Length"] == "15"
            assert response.read() == (b"" if method == "HEAD" else b'{"status":"ok"}')


@pytest.mark.slow
def test_a_connection_outlasts_the_pauses_of_a_proxy(packed_file, served) -> None:
    """They were closed after five seconds, now and then under a request that a proxy had just sent."""
    with served(packed_file, "--threads", 1, "--timeout", 0.5) as (address, process), connect(address) as connection:
        for _ in range(2):
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer(connection) == (200, {"status": "ready"})
            time.sleep(6)
        process.send_signal(signal.SIGTERM)  # which no idle connection delays
        assert connection.recv(1) == b""
        process.wait(timeout=10)


def test_a_body_that_does_not_come_has_its_answer_at_the_end_too(packed_file, served) -> None:
    """The server once gave up before that request's own time had come, with a traceback for it."""
    with served(packed_file, "--threads", 1, "--timeout", 0.5) as (address, process), connect(address) as client:
        client.sendall(head(1000) + b"x")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert answer(client)[0] == 408
        assert process.communicate(timeout=10)[1] == ""


def test_what_clients_do_wrong_is_not_logged(packed_file, served, png) -> None:
    """A scanner once wrote lines into the log, with advice on what to install among them."""
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n"
    lines = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    form = lines + b"Connection: close\r\nContent-Length: 20\r\n\r\n" + b"--b" + b"x" * 17
    with served(packed_file, "--threads", 1) as (address, process):
        for request, status in ((upgrade, 200), (form, 400), (b"nonsense\r\n\r\n", 400)):
            with connect(address) as client:
                client.sendall(request)
                assert client.recv(12) == b"HTTP/1.1 %d" % status
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[1] == ""


def test_a_second_interrupt_ends_it_at_once(packed_file, served) -> None:
    """What it had taken in was once a traceback each."""
    with served(packed_file, "--threads", 1) as (address, process), connect(address) as client:
        client.sendall(head(1000) + b"x")
        with connect(address) as asking:
            asking.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer(asking) == (200, {"status": "ready"})
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for the rest
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[1] == ""
        assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_answered_before_the_end(packed_file, served, png, end) -> None:
    data = png()
    with served(packed_file, "--threads", 1) as (address, process):
        clients = [connect(address) for _ in range(8)]
        for client in clients:
            client.sendall(head(len(data)) + data[:100])
        with connect(address) as asking:  # its answer comes after the heads above were seen
            asking.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer(asking) == (200, {"status": "ready"})
        process.send_signal(end)
        for client in clients:
            client.sendall(data[100:])
            status, body = answer(client)
            assert status == 200 and body["images"][0]["predictions"]
            client.close()
        process.wait(timeout=20)
        # uvicorn ends as the signal would have ended it; for Ctrl-C the command says 130, as all of ours do.
        assert process.returncode == {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130}[end]
        with pytest.raises(ConnectionRefusedError):
            connect(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_are_not_held_back(host) -> None:
    """asyncio switches Nagle's algorithm off only for sockets that name their protocol."""
    with listen(host, 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP and listener.getsockname()[1] > 0


def test_mistakes_are_one_line(packed_file, tmp_path, call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call("serve", packed_file, "--port", port)
        assert code == 2 and f"cannot listen at 127.0.0.1 port {port}: Address already in use" in err
    for arguments, message in (
        ((packed_file, packed_file), "two models are called small"),
        ((tmp_path / "none.bcdn",), "none.bcdn: no such file"),
        ((packed_file, "--token-file", tmp_path / "none"), "none: cannot be read"),
        ((packed_file, "--host", ""), "error: host: must not be empty"),
        ((packed_file, "--host", "no.such.host.invalid"), "cannot listen at no.such.host.invalid"),
    ):
        code, _, err = call("serve", *arguments)
        assert code == 2 and message in err.splitlines()[-1], err
    (tmp_path / "token").write_text("short")
    code, _, err = call("serve", packed_file, "--token-file", tmp_path / "token")
    assert code == 2 and err == "error: token: must be at least 16 printable ASCII characters\n"


@pytest.mark.parametrize(
    ("model", "name"),
    [("runs/w0.25", "w0.25"), ("x/small.bcdn", "small"), ("m.safetensors", "m"), ("hf-hub:org/net-v1.5", "net-v1.5")],
)
def test_only_a_files_suffix_is_no_part_of_the_name(model, name) -> None:
    assert served_name(model) == name


@pytest.mark.slow
def test_the_token_may_come_from_the_environment_and_never_shows(packed_file, served, monkeypatch) -> None:
    monkeypatch.setenv("BCDNET_SERVE_TOKEN", "0123456789abcdef")
    with served(packed_file, "--host", "127.0.0.1") as (address, process):
        with connect(address) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer(connection)[0] == 401
        assert os.environ["BCDNET_SERVE_TOKEN"] not in Path(f"/proc/{process.pid}/cmdline").read_text()
