"""Images of few bytes that take a decoder very long: refused, or left as soon as their request is over."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from PIL import Image

from bcdnet.serve import encoded

JPEG, PNG = {"Content-Type": "image/jpeg"}, {"Content-Type": "image/png"}


def progressive(more_scans: int) -> bytes:
    """A JPEG whose last scan comes so many times more, within its 16 x 16 pixels."""
    stream = io.BytesIO()
    Image.new("L", (16, 16), 128).save(stream, "JPEG", progressive=True)
    image, end = stream.getvalue()[:-2], stream.getvalue()[-2:]
    return image + image[image.rindex(b"\xff\xda") :] * more_scans + end


def test_a_jpeg_of_thousands_of_scans_is_refused(serving) -> None:
    """Of 25 million pixels and 16 MB, such an image once kept a thread for hours."""
    client = serving()
    response = client.post("/v1/predict", content=progressive(2000), headers=JPEG)
    assert response.status_code == 400 and response.json()["error"].startswith("image: is a JPEG image of more than 32")
    # Phones put a thumbnail before the image, and a film behind it.
    good = progressive(0)
    comment, film = b"\xff\xfe\x40\x02" + b"\xff\xda" * 0x2000, b"\xff\xda\x00\x02" * 100
    content = good[:2] + comment + good[2:] + film
    assert client.post("/v1/predict", content=content, headers=JPEG).status_code == 200


def test_a_png_of_many_colour_profiles_is_refused(serving) -> None:
    """Of 16 MB, such an image once kept a thread for minutes."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    stream = io.BytesIO()
    Image.new("L", (16, 16), 128).save(stream, "PNG")
    head, rest = stream.getvalue()[:33], stream.getvalue()[33:]
    profile, client = part(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20))), serving()
    response = client.post("/v1/predict", content=head + profile + profile + rest, headers=PNG)
    assert response.status_code == 400
    assert response.json() == {"error": "image: is a PNG image of more than one colour profile; save it anew"}
    comment = part(b"tEXt", b"Comment\0" + b"iCCP" * 100)
    for good in (head + profile + comment + rest, head + comment + rest + b"iCCP"):
        assert client.post("/v1/predict", content=good, headers=PNG).status_code == 200
    small = part(b"tEXt", b"a\0") * 2**16
    response = client.post("/v1/predict", content=head + comment + small + rest, headers=PNG)
    assert response.json() == {"error": "image: is in too many small parts"}


def filled(count: int) -> bytes:
    """A JPEG with so many fill bytes in its header, of which Pillow reads less than a megabyte a second."""
    good = progressive(0)
    return good[:2] + b"\xff" * count + good[2:]


def test_a_header_of_too_many_parts_is_refused(serving) -> None:
    client = serving()
    assert client.post("/v1/predict", content=filled(1000), headers=JPEG).status_code == 200
    response = client.post("/v1/predict", content=filled(300_000), headers=JPEG)
    assert response.json() == {"error": "image: cannot be decoded (it is in too many small parts)"}
    # Between the scans, where only the decoder comes.
    good, comments = progressive(0), b"\xff\xfe\x00\x02" * 70_000
    last = good.rindex(b"\xff\xda")
    content = good[:last] + comments + good[last:] + b"\xff\xda" * 40
    response = client.post("/v1/predict", content=content, headers=JPEG)
    assert response.json() == {"error": "image: is in too many small parts"}


def test_nobody_decodes_for_a_request_that_is_over(serving, monkeypatch) -> None:
    monkeypatch.setattr(encoded, "MOST_READS", 2**40)
    client = serving(seconds=0.2)
    with ThreadPoolExecutor(1) as decoders:
        client.app.state.service = replace(client.app.state.service, decoders=decoders)
        response = client.post("/v1/predict", content=filled(4_000_000), headers=JPEG)
        assert response.status_code == 408
        decoders.submit(int).result(timeout=2)
