"""`bcdnet explain` as a user meets it."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bcdnet.models import build, configure, load_model, save_model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A BCDNet for grey images, a ReActNet for colour, and an image."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    paths = []
    for name, channels, side in (("bcdnet_b_r18_small", 1, 16), ("reactnet_r18_small", 3, 24)):
        model = build(configure(name, width=0.125, num_classes=3, in_chans=channels))
        constants = {"mean": [0.5] * channels, "std": [0.25] * channels, "interpolation": "bilinear", "crop_pct": 1.0}
        preprocess = constants | {"input_size": [channels, side, side]}
        labels = ["<cat>", "dog", "eel"]
        paths.append(
            save_model(folder / name / "model.safetensors", model, labels=labels, preprocess=preprocess, provenance={})
        )
    image = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)).save(image)
    return paths[0], paths[1], image


def test_one_model_or_two(files, tmp_path, call) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")
    first, second, image = files
    page = tmp_path / "new" / "out.html"
    code, out, _ = call("explain", first.parent, image, "--versus", second, "--label", "<cat>", "-o", page)
    assert code == 0 and out.startswith("bcdnet_b_r18_small: <cat> ") and "model.safetensors: <cat> " in out
    text = page.read_text()
    assert "&lt;cat&gt;" in text and "<cat>" not in text and "http" not in text
    embedded = [base64.b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    assert embedded == [page.with_name(name).read_bytes() for name in ("out.png", "out-branches.png")]
    assert all(Image.open(io.BytesIO(found)).width > 300 for found in embedded)
    assert {path.name for path in page.parent.iterdir()} == {"out.html", "out.png", "out-branches.png"}
    code, *_ = call("explain", first, image, "-o", page)
    assert code == 0  # over its own earlier pages
    code, *_ = call("explain", second, image, "-o", tmp_path / "alone.html")
    assert code == 0 and not (tmp_path / "alone-branches.png").exists()


def test_figures_of_the_page_before_are_removed_and_no_others(files, tmp_path, call) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")
    first, second, image = files
    page, figures = tmp_path / "p.html", [tmp_path / f"p-branches{part}.png" for part in ("", "-2")]
    code, out, _ = call("explain", first, image, "--versus", first, "-o", page)
    assert code == 0 and out.count(f"{first}: ") == 2
    assert all(path.exists() for path in figures)
    read = tmp_path / "read.png"
    read.symlink_to(figures[1])
    code, out, _ = call("explain", second, read, "-o", page)  # which has no branches
    assert code == 0 and f"removed {figures[0]}, which" in out and not figures[0].exists()
    assert figures[1].exists()  # the image that was to be explained
    code, out, _ = call("explain", first, image, "-o", page)
    assert code == 0 and "removed" not in out and figures[0].exists()
    figures[0].write_bytes(image.read_bytes())  # somebody's own, or that of the page p-branches.html
    code, out, _ = call("explain", second, image, "-o", page)
    assert code == 0 and "removed" not in out
    assert [path.exists() for path in figures] == [True, True]


def test_the_second_model_is_asked_about_the_same_class(files, tmp_path, call) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")
    first, _, image = files
    loaded = load_model(first)
    with torch.no_grad():
        loaded.model.head.fc.bias[:] = torch.tensor([0.0, 0.0, 20.0])
    labels = ["crane", "dog", "crane"]  # as two of ImageNet's
    details = {"labels": labels, "preprocess": loaded.preprocess, "provenance": {}}
    twice = [save_model(tmp_path / name / "m.safetensors", loaded.model, **details) for name in ("a", "b")]
    code, out, _ = call("explain", twice[0], image, "--versus", twice[1], "-o", tmp_path / "out.html")
    assert code == 0
    folders = [line.partition(":")[0] for line in out.splitlines()[:2]]
    assert folders == [str(Path(name, "m.safetensors")) for name in "ab"]  # as much as tells them apart
    one, other = (line.rpartition("crane ")[2] for line in out.splitlines()[:2])
    assert one == other and float(one.removesuffix(" %")) > 50


def test_models_that_do_not_know_the_same_classes(files, tmp_path, call) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")
    first, _, image = files
    model = load_model(first).model
    preprocess = load_model(first).preprocess
    with torch.no_grad():
        model.head.fc.bias[:] = torch.tensor([0.0, 0.0, 20.0])
    many, few, none = (tmp_path / f"{name}.safetensors" for name in ("many", "few", "none"))
    save_model(many, model, labels=[], preprocess=preprocess, provenance={})
    for path, classes in ((few, 2), (none, 0)):
        model.reset_classifier(classes)
        save_model(path, model, labels=[], preprocess=preprocess, provenance={})
    page = tmp_path / "out.html"
    for arguments, message in (
        ((many, image, "--versus", few), f"--versus {few}: does not know '2', which {many} takes this for; say with"),
        ((none, image), "none.safetensors: has no classes to look for"),
    ):
        code, _, err = call("explain", *arguments, "-o", page)
        assert code == 2 and message in err and err.count("\n") == 1
    code, out, _ = call("explain", many, image, "--versus", few, "--label", 1, "-o", page)
    assert code == 0 and out.count(": 1 ") == 2


def test_names_that_are_no_text(files, tmp_path, call) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")
    first, _, image = files
    loaded = load_model(first)
    labels = ["$\\frac$", "a $x_$ b", "\ud800"]
    details = {"labels": labels, "preprocess": loaded.preprocess, "provenance": {}}
    model = save_model(tmp_path / "m$^$.safetensors", loaded.model, **details)
    odd = tmp_path / os.fsdecode(b"bad\xff.png")
    odd.write_bytes(image.read_bytes())
    for k in range(3):
        code, _, err = call("explain", model, odd, "--label", k, "-o", tmp_path / "out.html")
        assert code == 0, err
    text = (tmp_path / "out.html").read_text()
    assert r"bad\udcff.png explained" in text and "$\\frac$" in text and r"<td>\ud800</td>" in text


def test_nothing_is_lost_where_the_page_cannot_be_written(files, tmp_path, call, monkeypatch) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="needs the extra explain")
    first, _, image = files
    (tmp_path / "dir.html").mkdir()
    (tmp_path / "dir.png").write_text("mine")
    code, _, err = call("explain", first, image, "-o", tmp_path / "dir.html")
    assert code == 2 and "is not a regular file" in err and (tmp_path / "dir.png").read_text() == "mine"

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("bcdnet.analysis.cam_page.render", interrupted)
    assert call("explain", first, image, "-o", tmp_path / "page.html")[0] == 130
    assert {path.name for path in tmp_path.iterdir()} == {"dir.html", "dir.png"}


def test_what_was_not_trained_is_not_explained(files, tmp_path, call) -> None:
    first, _, image = files
    loaded = load_model(first)
    with torch.no_grad():
        loaded.model.stem[0].weight[0] = float("nan")
    details = {"labels": loaded.labels, "preprocess": loaded.preprocess, "provenance": {}}
    diverged = save_model(tmp_path / "nan.safetensors", loaded.model, **details)
    for model, message in (
        ("bcdnet_b_r18_small", "bcdnet_b_r18_small: a network without training"),
        (diverged, "training diverged"),
    ):
        code, _, err = call("explain", model, image, "-o", tmp_path / "out.html")
        assert code == 2 and message in err and err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"nan.safetensors"}


def test_mistakes_are_one_line(files, tmp_path, call, monkeypatch) -> None:
    first, _, image = files
    page = tmp_path / "out.html"
    (tmp_path / "mine-branches.png").write_text("mine")
    for arguments, message in (
        ((first, image, "-o", tmp_path / "out.png"), "give a name that ends in .html"),
        ((first, image, "--label", "dgo", "-o", page), "did you mean 'dog'"),
        ((first, image, "--label", 3, "-o", page), "the classes are 0 to 2"),
        ((first, tmp_path / "none.png", "-o", page), "none.png: no such file"),
        ((first, image, "-o", image.with_suffix(".html")), f"would write over {image}"),
        ((first, image, "-o", tmp_path / "mine.html"), f"{tmp_path / 'mine-branches.png'}: is there and would be"),
    ):
        code, _, err = call("explain", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1 and not page.exists()
    assert (tmp_path / "mine-branches.png").read_text() == "mine"
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    code, _, err = call("explain", first, image, "-o", page)
    assert (code, err) == (2, "error: this command needs pytorch_grad_cam: pip install 'bcdnet[explain]'\n")
