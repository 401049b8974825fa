"""Images of few bytes that take a decoder very long: refused, or left as soon as their request is over."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from PIL import Image

JPEG = {"Content-Type": "image/jpeg"}


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


def test_nobody_decodes_for_a_request_that_is_over(serving) -> None:
    """Pillow takes seconds for each megabyte of such a header."""
    client = serving(seconds=0.2)
    good = progressive(0)
    with ThreadPoolExecutor(1) as decoders:
        client.app.state.service = replace(client.app.state.service, decoders=decoders)
        response = client.post("/v1/predict", content=good[:2] + b"\xff" * 4_000_000 + good[2:], headers=JPEG)
        assert response.status_code == 408
        decoders.submit(int).result(timeout=2)
