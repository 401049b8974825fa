"""What the command line, the settings and the list of models say."""

from __future__ import annotations

import numpy as np
import pytest

from bcdnet.errors import BcdnetError
from bcdnet.program import read_program
from bcdnet.runtime.preprocess import crop_box
from bcdnet.serve import Settings


def test_the_options_reach_the_server(packed_file, call, monkeypatch, tmp_path) -> None:
    seen = {}

    def serve(models, settings, host, port, announce) -> None:
        seen.update(settings=settings, place=(host, port), threads=models[0].session.threads)

    monkeypatch.setattr("bcdnet.serve.run.run", serve)
    (tmp_path / "token").write_text("0123456789abcdef\n")
    options = ["--queue", 8, "--batch", 3, "--wait-ms", 7, "--workers", 2, "--max-pixels", 1000, "--max-body-mb", 2]
    options += ["--timeout", 9, "--threads", 2, "--port", 5, "--host", "::1", "--token-file", tmp_path / "token"]
    code, _, err = call("serve", packed_file, *options)
    assert (code, err) == (0, "")
    assert seen["settings"] == Settings(2_000_000, 1000, 8, 9.0, 8, 3, 0.007, 2, "0123456789abcdef")
    assert seen["place"] == ("::1", 5) and seen["threads"] == 2
    code, _, err = call("serve", packed_file, "--host", "0.0.0.0")
    assert code == 0 and "0.0.0.0 may be reached by other machines, and there is no token" in err


def test_a_token_of_15_letters_is_too_short() -> None:
    assert Settings(token="x" * 16).token
    with pytest.raises(BcdnetError, match="at least 16"):
        Settings(token="x" * 15)


def test_what_never_fits_into_the_queue_is_told_with_both_options(packed_file, call) -> None:
    code, out, err = call("serve", packed_file, "--max-images", 200)
    assert (code, out) == (2, "") and "a queue of 128" in err and "--max-images" in err and "--queue" in err


def test_the_crop_is_that_of_the_upright_image(serving, png) -> None:
    client = serving()
    (batcher,) = client.app.state.service.batchers.values()
    data = png(64, 20, orientation=6)
    response = client.post("/v1/predict", content=data, headers={"Content-Type": "image/png"})
    crop = response.json()["images"][0]["crop"]
    expected = crop_box(20, 64, batcher.model.preprocess)
    assert [crop[key] for key in ("left", "top", "width", "height")] == pytest.approx(list(expected))


def test_the_list_of_models_tells_weights_and_bytes(serving, packed_file) -> None:
    (model,) = serving().get("/v1/models").json()["models"]
    arrays = read_program(packed_file).tensors.values()
    assert model["float_weights"] == sum(array.size for array in arrays if array.dtype == np.float32)
    assert model["file_bytes"] == packed_file.stat().st_size
