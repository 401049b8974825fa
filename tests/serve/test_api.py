"""The API: what it answers, each limit, the token, errors and metrics."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bcdnet.errors import BcdnetError, DataError
from bcdnet.runtime import InferenceSession
from bcdnet.serve import Settings, create_app, load
from bcdnet.serve.batcher import Batcher
from bcdnet.serve.metrics import Metrics
from bcdnet.serve.run import is_loopback

PNG = {"Content-Type": "image/png"}


def refused(response, status: int, *parts: str) -> None:
    """The status, and exactly one sentence that says why."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    sentence = response.json()["error"]
    assert all(part in sentence for part in parts), sentence
    assert ". " not in sentence.rstrip(".")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_raw_bytes_give_what_the_session_gives(packed_file, serving, png, kind) -> None:
    data = png(kind=kind, orientation=6)
    response = serving().post("/v1/predict?topk=3", content=data, headers={"Content-Type": f"image/{kind.lower()}"})
    assert response.status_code == 200
    (image,) = response.json()["images"]
    (expected,) = InferenceSession(packed_file).predict([Image.open(io.BytesIO(data))], topk=3)
    assert [(row["label"], row["index"]) for row in image["predictions"]] == [(e.label, e.index) for e in expected]
    assert [row["probability"] for row in image["predictions"]] == pytest.approx([e.probability for e in expected])
    assert (image["width"], image["height"]) == (20, 24)  # stored as 24 x 20, on its side
    assert all(row["cam"] is None for row in image["predictions"])


def test_many_images_with_maps_in_the_order_of_the_request(packed_file, serving, png) -> None:
    files = [("image", (f"{seed}.png", png(seed=seed))) for seed in range(5)]
    response = serving().post("/v1/predict?topk=6&cam=true", files=files)
    images = response.json()["images"]
    assert [image["name"] for image in images] == [f"{seed}.png" for seed in range(5)]
    session = InferenceSession(packed_file)
    for seed, image in enumerate(images):
        picture = Image.open(io.BytesIO(png(seed=seed)))
        for row in image["predictions"]:
            np.testing.assert_allclose(row["cam"], session.cam(picture, row["index"]), atol=1e-5)


def test_models_and_the_choice_between_them(serving, png) -> None:
    client = serving(("one", "two"))
    answer = client.get("/v1/models").json()
    assert [model["name"] for model in answer["models"]] == ["one", "two"]
    model = answer["models"][0]
    # Stem, 3x3, three branches of 1x1, 1x1 to twice the channels, head: as in the packed network.
    assert model["binary_weights"] == 32 * 32 * (9 + 3 + 2) and model["binary_macs"] == 64 * model["binary_weights"]
    assert model["operations"] == model["float_macs"] + model["binary_macs"] // 64
    assert model["input"] == [3, 16, 16] and model["labels"] == list("abcdef") and model["cam"]
    assert answer["limits"]["images"] == 16
    assert client.post("/v1/predict", content=png(), headers=PNG).json()["model"] == "one"
    assert client.post("/v1/predict?model=two", content=png(), headers=PNG).json()["model"] == "two"
    refused(client.post("/v1/predict?model=three", content=png(), headers=PNG), 404, "'three'", "one, two")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_limit_has_its_sentence(serving, png) -> None:
    client = serving(body_bytes=5000, pixels=1000, images=3)
    refused(client.post("/v1/predict", content=bytes(5001), headers=PNG), 413, "longer than 5,000 bytes")
    chunks = client.post("/v1/predict", content=(bytes(100) for _ in range(51)), headers=PNG)
    refused(chunks, 413, "longer than 5,000 bytes")
    refused(client.post("/v1/predict", files={"image": bytes(5001)}), 413, "longer than 5,000 bytes")
    refused(client.post("/v1/predict", content=png(50, 21), headers=PNG), 413, "50 x 21 pixels", "at most 1,000")
    for side in (60_000, 2**31 - 1):
        refused(client.post("/v1/predict", content=bomb(side, side), headers=PNG), 413, "pixels")
    many = [("image", (f"{n}.png", png(3, 3))) for n in range(4)]
    refused(client.post("/v1/predict", files=many), 413, "at most 3 images")
    assert client.post("/v1/predict", files=many[:3]).status_code == 200


def test_what_is_no_image_or_no_body(serving, png) -> None:
    client = serving()
    refused(client.post("/v1/predict", content=b"", headers=PNG), 400, "body is empty")
    refused(client.post("/v1/predict", content=b"x", headers=PNG), 400, "is not a JPEG, PNG or WEBP image")
    refused(client.post("/v1/predict", content=png()[:200], headers=PNG), 400, "image: cannot be decoded")
    gif = io.BytesIO()
    Image.new("L", (3, 3)).save(gif, "GIF")
    refused(client.post("/v1/predict", content=gif.getvalue(), headers=PNG), 400, "is not a JPEG, PNG or WEBP image")
    mixed = [("image", ("good.png", png())), ("image", ("b\u202ead.png", b"x"))]
    refused(client.post("/v1/predict", files=mixed), 400, "b?ad.png: is not a JPEG, PNG or WEBP image")
    refused(client.post("/v1/predict", data={"image": "x"}), 415, "multipart/form-data")
    refused(client.post("/v1/predict", content=png(), headers={"Content-Type": "text/plain"}), 415, "image/png")
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(client.post("/v1/predict", content=b"--b\r\nnonsense", headers=form), 400, "multipart body")
    field = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n'
    refused(client.post("/v1/predict", content=field, headers=form), 400, "has no file name")
    unnamed = b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename*=UTF-8''%61.png\r\n\r\n" + bytes(5000)
    refused(client.post("/v1/predict", content=unnamed + b"\r\n--b--\r\n", headers=form), 400, "file name")
    # Passed over, the first model would answer in the place of the one that was asked for.
    both = {"files": {"image": ("a.png", b"?")}, "data": {"model": "narrow"}}
    refused(client.post("/v1/predict", **both), 400, "?model=")
    # It holds no file; the oldest python-multipart calls it invalid.
    refused(client.post("/v1/predict", content=b"--b--\r\n", headers=form), 400, "the multipart body ")
    file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + png() + b"\r\n"
    refused(client.post("/v1/predict", content=file * 2, headers=form), 400, "ends before its last boundary")
    assert len(client.post("/v1/predict", content=file * 2 + b"--b--", headers=form).json()["images"]) == 2


def test_a_large_file_needs_no_temporary_folder(serving, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    large = io.BytesIO()
    Image.fromarray(pixels).save(large, "PNG")
    assert len(large.getvalue()) > 2**20
    files = [("image", ("a.png", large.getvalue())), ("image", ("b.png", large.getvalue()))]
    answer = serving().post("/v1/predict", files=files)
    assert answer.status_code == 200 and len(answer.json()["images"]) == 2


@pytest.mark.parametrize("charset", ["utf-16", "unicode_escape", "idna", "base64", "punycode", "none"])
def test_odd_charsets_are_no_server_error(serving, png, charset) -> None:
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="\\ud800\xff"\r\n\r\n'
        + png()
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    assert serving().post("/v1/predict", content=part, headers=headers).status_code in (200, 400)


@pytest.mark.parametrize("query", ["topk=0", "topk=1001", "topk=x", "cam=perhaps", "topk=11&cam=true"])
def test_a_bad_parameter_is_named(serving, png, query) -> None:
    refused(serving().post(f"/v1/predict?{query}", content=png(), headers=PNG), 422, query.split("=")[0])


def test_other_paths_and_methods(serving) -> None:
    client = serving()
    refused(client.get("/nosuch"), 404, "nothing at this path")
    refused(client.get("/static/../api.py"), 404, "nothing")
    refused(client.get("/static/%2e%2e/api.py"), 404, "nothing")
    refused(client.get("/docs/", headers={"Host": "elsewhere"}), 404, "nothing")
    refused(client.get("/v1/predict"), 405, "GET is not allowed here")
    for path in ("/", "/docs", "/healthz", "/readyz", "/static/app.js"):
        response = client.head(path)
        assert response.status_code == 200 and not response.content
        assert response.headers["Content-Length"] == client.get(path).headers["Content-Length"]


def test_token(serving, png) -> None:
    client = serving(token="0123456789abcdef")
    for headers in (
        {},
        {"Authorization": "Bearer 0123456789abcdeX"},
        {"Authorization": "Bearer"},
        {"Authorization": b"\xff"},
    ):
        for path in ("/v1/models", "/metrics"):
            response = client.get(path, headers=headers)
            refused(response, 401, "Authorization: Bearer TOKEN")
            assert response.headers["WWW-Authenticate"] == "Bearer"
        refused(client.post("/v1/predict", content=png(), headers=PNG | headers), 401, "token")
    good = {"Authorization": "Bearer 0123456789abcdef"}
    assert client.post("/v1/predict", content=png(), headers=PNG | good).status_code == 200
    assert client.get("/metrics", headers=good).status_code == 200
    assert all(client.get(path).status_code == 200 for path in ("/", "/docs", "/healthz", "/readyz", "/openapi.json"))


def test_a_failure_inside_is_a_500_without_its_details(packed_file, png, monkeypatch) -> None:
    from fastapi.testclient import TestClient

    model = load(packed_file, "small", threads=1)
    monkeypatch.setattr(model.session, "run", lambda *_: 1 / 0)
    with TestClient(create_app([model]), raise_server_exceptions=False) as client:
        response = client.post("/v1/predict", content=png(), headers=PNG)
        refused(response, 500, "something went wrong")
        assert response.headers["X-Content-Type-Options"] == "nosniff" and response.headers["Connection"] == "close"
        assert 'status="500"' in client.get("/metrics").text
        monkeypatch.undo()
        assert client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_logits_that_are_not_finite_are_no_answer(packed_file, png, monkeypatch) -> None:
    from fastapi.testclient import TestClient

    model = load(packed_file, "small", threads=1)
    monkeypatch.setattr(model.session, "run", lambda *_: [np.full((1, len(model.info.labels)), np.nan, np.float32)])
    with TestClient(create_app([model])) as client:
        refused(client.post("/v1/predict", content=png(), headers=PNG), 500, "logits of 1 images are not finite")
    monkeypatch.setattr(InferenceSession, "run", lambda *_: [np.full((1, 3), np.inf, np.float32)])
    with pytest.raises(DataError, match="not finite"):
        load(packed_file)


def test_an_image_without_finite_logits_does_not_fail_its_batch(packed_file, monkeypatch) -> None:
    model = load(packed_file, "small", threads=1)

    def run(_: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        (x,) = inputs.values()
        logits = np.zeros((len(x), len(model.info.labels)), np.float32)
        logits[x.mean((1, 2, 3)) > 0] = np.nan
        return [logits]

    monkeypatch.setattr(model.session, "run", run)
    batcher = Batcher(model, Settings(workers=1, wait_seconds=1), Metrics())
    x = np.ones(model.preprocess.input_size, np.float32)
    with batcher.admit(3, 1, False) as submit:
        first, broken, last = submit(-x), submit(x), submit(-x)
        assert first.result(60).batch == last.result(60).batch == 3
        with pytest.raises(DataError, match="not finite"):
            broken.result(60)
    batcher.close()


def test_metrics_count(serving, png) -> None:
    client = serving()
    for _ in range(3):
        client.post("/v1/predict", content=png(), headers=PNG)
    client.get("/any/path/that/is/not/there")
    text = client.get("/metrics").text
    assert 'bcdnet_requests_total{method="POST",path="/v1/predict",status="200"} 3.0' in text
    assert 'bcdnet_requests_total{method="GET",path="other",status="404"} 1.0' in text
    assert 'bcdnet_batch_images_count{model="small"} 3.0' in text and 'bcdnet_images_total{model="small"} 3.0' in text
    assert "process_resident_memory_bytes" in text and "bcdnet_request_seconds_bucket" in text


def test_metrics_tell_paths_apart_below_a_proxys_prefix(serving) -> None:
    from fastapi.testclient import TestClient

    client = TestClient(serving().app, root_path="/vision")
    assert client.get("/vision/healthz").status_code == 200
    assert 'bcdnet_requests_total{method="GET",path="/healthz",status="200"} 1.0' in client.get("/vision/metrics").text


def test_every_answer_has_the_policy(serving) -> None:
    client = serving()
    for path in ("/", "/docs", "/static/app.js", "/v1/models", "/nosuch"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
        assert headers.get_list("Cache-Control") == ["no-cache"]
    # Which is cheap: what did not change is not sent again.
    for path in ("/", "/static/app.js"):
        tag = {"If-None-Match": client.get(path).headers["ETag"]}
        assert client.get(path, headers=tag).status_code == 304
    assert "<script>" not in client.get("/").text and "style=" not in client.get("/").text + client.get("/docs").text


def test_openapi_has_examples_and_every_refusal(serving) -> None:
    document = serving().get("/openapi.json").json()
    predict = document["paths"]["/v1/predict"]["post"]
    assert set(predict["responses"]) == {"200", "400", "401", "404", "408", "413", "415", "422", "500", "503"}
    assert set(predict["requestBody"]["content"]) >= {"multipart/form-data", "image/jpeg", "image/webp"}
    schemas = document["components"]["schemas"]
    assert schemas["PredictResponse"]["examples"] and schemas["ModelsResponse"]
    (unready,) = document["paths"]["/readyz"]["get"]["responses"]["503"]["content"].values()
    assert "starting or shutting down" in unready["example"]["error"]


def test_openapi_wants_the_token_where_the_server_does(serving) -> None:
    assert "securitySchemes" not in serving().get("/openapi.json").json()["components"]
    document = serving(token="0123456789abcdef").get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    guarded = {path for path, methods in document["paths"].items() for each in methods.values() if "security" in each}
    assert guarded == {"/v1/predict", "/v1/models", "/metrics"}


def test_a_lack_of_memory_is_not_the_clients_fault(serving, png, monkeypatch) -> None:
    client = serving()

    def scarce(*_args, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", scarce)
        refused(client.post("/v1/predict", content=png(), headers=PNG), 503, "short of memory")
    assert client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_settings_and_models_that_cannot_be(packed_file) -> None:
    for settings, message in (
        ({"queue": 0}, "queue: must be above 0"),
        ({"seconds": float("nan")}, "seconds: must be above 0 and finite"),
        ({"wait_seconds": 2}, "wait_seconds: must be 0 to 1"),
        ({"images": 200}, "never fit in a queue of 128"),
        ({"token": "short"}, "token: must be at least 16"),
    ):
        with pytest.raises(BcdnetError, match=message):
            Settings(**settings)
    model = load(packed_file, threads=1)
    with pytest.raises(BcdnetError, match="two models are called small"):
        create_app([model, model])
    with pytest.raises(BcdnetError, match="no model"):
        create_app([])
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip
