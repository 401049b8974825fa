"""Uploads that are damaged, hostile or nonsense never make a server error, and never harm the next client."""

from __future__ import annotations

import http.client
import random
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcdnet.serve.upload import MULTIPART, RAW_TYPES

Request = tuple[dict[str, str], bytes]
PIECES = (
    b"\r\n", b"\r\n\r\n", b"--", b"--b", b"--b--", b"\x00", b"\xff", b'"', b";", b"filename=", b"IHDR", b"IDAT",
    b"IEND", b"Exif\x00\x00", b"\xff\xd8", b"\xff\xe1", b"\xff\xda", b"RIFF", b"WEBP", b"VP8L",
    b"ANMF", b"\x7f\xff\xff\xff",
)  # fmt: skip


def form(images: list[bytes], boundary: bytes = b"b") -> bytes:
    head = b'Content-Disposition: form-data; name="image"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    return (
        b"".join(b"--" + boundary + b"\r\n" + head + image + b"\r\n" for image in images) + b"--" + boundary + b"--\r\n"
    )


def damage(body: bytes, draw: random.Random) -> bytes:
    """A few random changes: bits, cuts, repetitions, insertions of what parsers look for, exchanged lengths."""
    data = bytearray(body)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = draw.choice(PIECES)
        elif kind == 3:
            del data[place : place + draw.randrange(64)]
        elif kind == 4:
            data[place:place] = data[place : place + draw.randrange(64)] * draw.randrange(8)
        else:
            data[place : place + 4] = draw.randbytes(4)
    return bytes(data)


def malformed(good: list[bytes], draw: random.Random) -> Request:
    """One request that is wrong in its head, its body, or both; `good` are images."""
    raw = draw.random() < 0.6
    image = draw.choice(good)
    body = image if raw else form(draw.choices(good, k=draw.randrange(1, 4)))
    body = draw.choice((b"", draw.randbytes(draw.randrange(400)), *[damage(body, draw)] * 8))
    kind = draw.choice(RAW_TYPES) if raw else f"{MULTIPART}; boundary=b"
    if draw.random() < 0.1:
        odd = (
            "",
            "image/",
            "text/html",
            MULTIPART,
            f"{MULTIPART}; boundary=",
            f"{MULTIPART}; boundary=b; charset=idna",
        )
        kind = draw.choice((*odd, kind[: draw.randrange(len(kind))], f"{kind};" * draw.randrange(50)))
    return {"Content-Type": kind}, body


@pytest.fixture(scope="module")
def good(png) -> list[bytes]:
    return [png(kind=kind, orientation=turned) for kind in ("PNG", "JPEG", "WEBP") for turned in (1, 6)]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**64), query=st.sampled_from(("", "?cam=1", "?topk=0", "?topk=" + "9" * 50, "?model=%00")))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_no_upload_is_a_server_error(client, good, seed, query) -> None:
    headers, body = malformed(good, random.Random(seed))
    response = client.post(f"/v1/predict{query}", content=body, headers=headers)
    assert response.status_code in (200, 400, 404, 413, 415, 422), response.text
    if response.status_code != 200:
        assert list(response.json()) == ["error"]


@pytest.fixture
def client(serving: Callable):
    return serving(body_bytes=20_000, pixels=10_000)


@pytest.mark.slow
def test_ten_thousand_malformed_uploads(packed_file, served, good, png) -> None:
    """Against a real server, over connections that are kept while it keeps them; its memory stays where it was."""
    limits = ("--threads", 1, "--max-body-mb", 0.02, "--max-pixels", 10_000)
    with served(packed_file, *limits) as (address, process):
        host = urlsplit(address).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        memory = []
        for seed in range(10_000):
            headers, body = malformed(good, random.Random(seed))
            connection.request("POST", "/v1/predict", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status < 500, (seed, response.status)
            if seed in (2000, 9999):
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
                line = next(line for line in text.splitlines() if line.startswith("process_resident_memory_bytes "))
                memory.append(float(line.split()[1]))
                assert 'bcdnet_queue_images{model="small"} 0.0' in text
        assert process.poll() is None and memory[1] - memory[0] < 32e6
        connection.request("POST", "/v1/predict", png(), {"Content-Type": "image/png"})
        assert connection.getresponse().status == 200
        connection.close()
