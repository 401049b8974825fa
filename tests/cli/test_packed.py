"""`bcdnet export`, `verify` and `bench` from the command line, on one small model."""

from __future__ import annotations

import errno
import io
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from bcdnet.cli.bench import Roof, _print_profile, _share
from bcdnet.cli.eval import show
from bcdnet.cli.main import main
from bcdnet.cli.verify import Report
from bcdnet.compiler import export
from bcdnet.data.digits import Digits
from bcdnet.evaluation import evaluate_logits
from bcdnet.models import load_model, save_model
from bcdnet.program import read_program, write_program
from bcdnet.program.schema import Linear
from bcdnet.runtime import OpProfile
from bcdnet.runtime.cost import Cost

pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint for the digits, and the packed file made from it."""
    folder = tmp_path_factory.mktemp("packed")
    torch.manual_seed(0)
    model = timm.create_model("bcdnet_a_small", num_classes=10, width=0.125)
    with torch.no_grad():
        model(torch.randn(16, 3, 16, 16))
    preprocess = {
        "input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
    }  # fmt: skip
    labels = [str(digit) for digit in range(10)]
    checkpoint = save_model(
        folder / "model.safetensors", model, labels=labels, preprocess=preprocess, provenance={"seed": 0}
    )
    with pytest.raises(SystemExit):
        main(["export", str(checkpoint), "-o", str(folder / "x.bcdn")])
    return checkpoint, folder / "x.bcdn"


def test_export_keeps_labels_and_origin(files) -> None:
    program = read_program(files[1])
    assert program.labels == tuple("0123456789") and program.provenance["seed"] == 0
    assert program.preprocess is not None and program.preprocess.input_size == (3, 16, 16)


def test_export_of_a_name_and_of_a_misspelt_one(tmp_path, call) -> None:
    code, out, _ = call("export", "reactnet_r18_small", "-o", tmp_path / "y.bcdn", "--input-size", 3, 32, 32)
    assert code == 0 and "input 3x32x32" in out
    code, _, err = call("export", "bcdnet_aa", "-o", tmp_path / "z.bcdn")
    assert code == 2 and "did you mean bcdnet_a" in err and not (tmp_path / "z.bcdn").exists()


def test_export_with_weights_of_float16(files, tmp_path, call) -> None:
    """A smaller file that still is a network: what it unpacks to agrees with it bit by bit."""
    code, out, err = call("export", files[0], "-o", tmp_path / "half.bcdn", "--half")
    assert code == 0, err
    assert (tmp_path / "half.bcdn").stat().st_size < files[1].stat().st_size - 1000
    code, out, err = call("verify", tmp_path / "half.bcdn", tmp_path / "half.bcdn", "--data", "digits", "--limit", 40)
    assert code == 0 and "agree" in out, err
    code, _, err = call("export", files[0], "-o", tmp_path / "x.onnx", "--half")
    assert code == 2 and "--half makes packed files smaller" in err and not (tmp_path / "x.onnx").exists()


def test_export_writes_over_no_weights_and_what_can_be_read_again(files, tmp_path, call) -> None:
    checkpoint, before = files[0], files[0].read_bytes()
    for output, *options in (
        (checkpoint,),
        (tmp_path / "x.foo",),
        ("",),
        (tmp_path / "x.onnx", "--format", "bcdn"),
        (tmp_path / "x.bcdn", "--format", "onnx"),
    ):
        code, _, err = call("export", checkpoint, "-o", output, *options)
        assert code == 2 and "give a name that ends in .bcdn, or in .onnx" in err
    assert checkpoint.read_bytes() == before and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    code, _, err = call("export", checkpoint, "-o", tmp_path / "file" / "x.bcdn")
    assert code == 2 and "x.bcdn: cannot be written" in err and err.count("\n") == 1


def test_no_output_takes_the_place_of_its_input(files, tmp_path, call, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    packed = Path("m.bcdn")
    packed.write_bytes(files[1].read_bytes())
    run = Path("run.onnx")
    run.mkdir()
    for name in ("t.onnx", "t.bcdn", run / "model.safetensors"):
        Path(name).write_bytes(files[0].read_bytes())
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    for arguments in (
        ("export", packed, "-o", tmp_path / packed),
        ("export", "t.onnx", "-o", "t.onnx"),
        ("export", "t.bcdn", "-o", "t.bcdn"),
        ("export", run, "--format", "onnx", "-o", run / "model.safetensors"),
        ("bench", packed, "--trace", packed),
        ("predict", packed, "x.parquet", "--engine", "ray", "-o", packed),
    ):
        code, _, err = call(*arguments)
        assert code == 2 and "which is read; choose another output" in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()} == before


def test_a_page_replaces_no_files_but_its_own(files, tmp_path, call) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in ("index.html", "model.bcdn"):
        (site / name).write_text("mine")
    (site / "photo.png").write_text("mine")
    code, _, err = call("export-web", files[1], "-o", site)
    assert code == 2 and f"{site}: holds index.html, model.bcdn of another page" in err and err.count("\n") == 1
    assert {path.read_text() for path in site.iterdir()} == {"mine"} and len(list(site.iterdir())) == 3
    (site / "index.html").unlink()
    (site / "model.bcdn").unlink()
    for _ in range(2):  # the second time over a page of ours
        assert call("export-web", files[1], "-o", site)[0] == 0


def test_the_command_that_tries_a_page_takes_any_folder(files, tmp_path, call, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("export-web", files[1], "--output=-my site")
    _, *words = shlex.split(out.partition("To try it: ")[2])
    assert code == 0 and "--directory=-my site" in words
    subprocess.run([sys.executable, *words, "--help"], check=True, stdout=subprocess.DEVNULL)  # which reads them first


def test_a_page_is_whole_or_not_there(files, tmp_path, call, monkeypatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".wasm":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    site = tmp_path / "site"
    monkeypatch.setattr(Path, "write_bytes", full)
    message = f"error: {site / 'bcdnet.wasm'}: cannot be written (No space left on device)\n"
    assert call("export-web", files[1], "-o", site) == (2, "", message) and not any(site.iterdir())
    monkeypatch.undo()
    assert call("export-web", files[1], "-o", site)[0] == 0  # where there is space again, it is no other page's folder
    before = {path.name: path.stat().st_mtime_ns for path in site.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", full)
    assert call("export-web", files[1], "-o", site)[0] == 2  # and no page of two versions
    assert {path.name: path.stat().st_mtime_ns for path in site.iterdir()} == before


def test_verify_agrees(files, call) -> None:
    arguments = ("verify", *files, "--data", "digits", "--limit", 40, "--batch-size", 16, "--threads", 1)
    code, out, _ = call(*arguments, "--json")
    report = json.loads(out)
    assert code == 0 and report["images"] == 40 and report["top1_agreement"] == 100
    assert report["differing_bits"] == 0 and report["bits"] > 0 and report["first_differing"] is None
    assert report["max_logit_difference"] < 1e-4
    code, out, _ = call(*arguments)
    assert code == 0 and "agree" in out


def test_verify_refuses_a_file_of_other_classes(files, tmp_path, call) -> None:
    program = read_program(files[1])
    renamed = write_program(replace(program, labels=tuple("abcdefghij")), tmp_path / "x.bcdn")
    code, _, err = call("verify", files[0], renamed, "--data", "digits", "--limit", 8)
    assert code == 2 and "x.bcdn: names other classes than" in err and err.count("\n") == 1


def test_a_packed_file_may_have_any_name(files, tmp_path, call) -> None:
    copy = tmp_path / "model.bin"
    copy.write_bytes(files[1].read_bytes())
    code, out, _ = call("bench", copy, "--threads", 1, "--seconds", 0.1, "--json")
    assert code == 0 and json.loads(out)["bytes"] == copy.stat().st_size


def test_a_page_is_not_made_around_what_no_browser_loads(tmp_path, call) -> None:
    for layers, size, message in (
        ([nn.Flatten(), nn.Linear(3 * 64 * 64, 1400), nn.Linear(1400, 4)], 64, "its weights are"),
        ([nn.Conv2d(3, 80, 1), nn.Conv2d(80, 80, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()], 700, "the maps of one"),
    ):
        preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
        network = nn.Sequential(*layers).eval()
        path = export(network, tmp_path / "x.bcdn", input_size=(3, size, size), preprocess=preprocess)
        code, _, err = call("export-web", path, "-o", tmp_path / "site")
        assert code == 2 and f"x.bcdn: {message}" in err and not (tmp_path / "site").exists()


def test_verify_refuses_another_crop_though_no_image_shows_it(files, tmp_path, call) -> None:
    program = read_program(files[1])
    cropped = replace(program, preprocess=replace(program.preprocess, crop_pct=0.5))
    code, _, err = call("verify", files[0], write_program(cropped, tmp_path / "x.bcdn"), "--data", "digits")
    assert code == 2 and "has crop_pct 0.5" in err and err.endswith("; export it again\n")


def test_verify_finds_the_first_layer_that_differs(files, tmp_path, call) -> None:
    program = read_program(files[1])
    op = next(op for op in program.ops if op.name == "stages.1.0.conv")
    tensors = dict(program.tensors)
    scale = op.branches[0].scale
    tensors[scale] = -tensors[scale]
    broken = write_program(type(program)(**{**vars(program), "tensors": tensors}), tmp_path / "x.bcdn")
    code, out, _ = call("verify", files[0], broken, "--data", "digits", "--limit", 8, "--json")
    report = json.loads(out)
    assert code == 1 and report["differing_bits"] > 0
    # The wrong scale shows in the input of the layer after it, and nowhere before.
    assert report["first_differing"]["layer"] == "stages.1.1.conv"
    before = [layer for layer in report["layers"] if layer["name"] in ("stages.0.0.conv", "stages.1.0.conv")]
    assert len(before) == 2 and all(layer["differing"] == 0 for layer in before)


def test_bench(files, tmp_path, call) -> None:
    trace = tmp_path / "trace.json"
    code, out, _ = call(
        "bench", files[1], "--threads", 1, "--batch", 1, "--batch", 3, "--seconds", 0.1, "--profile",
        "--trace", trace, "--json",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0 and [row["batch"] for row in report["results"]] == [1, 3]
    for row in report["results"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] and row["gmacs_per_second"] > 0
        assert row["roof_share"] is None or 0 < row["roof_share"] <= 1
    names = [op.name for op in read_program(files[1]).ops]
    assert [row["name"] for row in report["profile"]] == names
    assert report["profiled"] == {"threads": 1, "batch": 1}
    code, out, err = call("bench", files[1], "--threads", 1, "--seconds", 0.1, "--trace", tmp_path, "--json")
    assert code == 2 and "is not a regular file" in err and json.loads(out)["results"]  # measured, and shown
    events = json.loads(trace.read_text())["traceEvents"]
    assert [event["name"] for event in events] == names
    ends = np.array([event["ts"] + event["dur"] for event in events])
    assert np.allclose(ends[:-1], [event["ts"] for event in events[1:]])


def test_names_are_no_markup(files, tmp_path, call, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("m[bold].bcdn")
    program = read_program(files[1])
    write_program(replace(program, labels=("[other]", "[/]", *program.labels[2:])), path)
    code, out, _ = call("bench", path, "--threads", 1, "--seconds", 0.1, "--profile")
    assert code == 0 and "m[bold].bcdn, 0.22 MB, input" in " ".join(out.split())
    evaluation = evaluate_logits(np.eye(2, dtype=np.float32), np.array([0, 1]), ["[other]", "[/]"], 1.0)
    show(evaluation, "[/] on [data]")


def test_what_is_no_model_is_said_without_torch(tmp_path, call) -> None:
    (tmp_path / "shirt.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in (tmp_path / "shirt.png", tmp_path, ""):
        code, _, err = call("bench", name)
        message = "no trained model is called ''" if name == "" else f"{name}: is no packed file, model file or run"
        assert code == 2 and message in err and err.count("\n") == 1


def test_a_share_above_the_roof_is_not_shown() -> None:
    assert _share(1.0, 2.0) == 0.5 and _share(2.0, 1.0) is None


def test_a_profile_counts_the_work_of_its_batch_and_the_roof_of_its_threads(capsys) -> None:
    row = OpProfile("conv", "BinaryConv2d", 1e-3, Cost(binary_macs=10**6, float_macs=0, bytes=0))
    _print_profile([row], Roof(shuffle=1e10, pairs=0, popcount=0, fp32=1e9), threads=4, batch=20)
    line = next(line for line in capsys.readouterr().out.splitlines() if "conv" in line)
    assert [cell.strip() for cell in line.split("│")[3:-1]] == ["1000 us", "100.0 %", "20.0", "0", "20", "50 %"]


def test_a_lack_of_memory_is_one_line(files, call, monkeypatch) -> None:
    monkeypatch.setattr("bcdnet.cli.bench._measure", Mock(side_effect=MemoryError("Unable to allocate 2.30 GiB")))
    code, _, err = call("bench", files[1])
    assert code == 2 and err.startswith("error: not enough memory (Unable to allocate") and err.count("\n") == 1


def test_logits_that_are_not_finite_are_no_comparison(files, tmp_path, call) -> None:
    program = read_program(files[1])
    head = next(op for op in program.ops if op.type == "linear").weight
    huge = np.full_like(program.tensors[head], 3e38)
    write_program(replace(program, tensors=program.tensors | {head: huge}), tmp_path / "inf.bcdn")
    code, out, err = call(
        "verify", tmp_path / "inf.bcdn", tmp_path / "inf.bcdn", "--data", "digits", "--limit", 3, "--json"
    )
    assert (code, out) == (2, "") and "not finite" in err


def test_options_that_would_do_nothing_are_refused(files, call) -> None:
    code, _, err = call("eval", files[1], "--data", "digits", "--device", "cuda")
    assert code == 2 and "packed files run on the CPU" in err
    code, _, err = call("analyze", "flips", files[1].parent, "--data", "digits")
    assert code == 2 and "leave --data, --split, --images and --device out" in err
    for words in (["--split", "train"], ["--images", 5], ["--device", "cuda"]):
        assert call("analyze", "flips", files[1].parent, *words)[0] == 2
    code, _, err = call("serve", files[1], "--max-images", 200)
    assert code == 2 and "never fit in a queue of 128" in err


def test_a_bad_file_is_one_line(tmp_path, call) -> None:
    (tmp_path / "x.bcdn").write_bytes(b"nothing")
    code, _, err = call("bench", tmp_path / "x.bcdn")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_a_packed_file_can_be_packed_for_another_size_and_looked_into(files, tmp_path, call) -> None:
    """As the model file it was made of: what a shipped model is to those who have no run of it."""
    model, packed = files
    for name, output in ((model, "a.bcdn"), (packed, "b.bcdn")):
        code, out, err = call("export", name, "-o", tmp_path / output, "--input-size", 3, 32, 32)
        assert code == 0 and "input 3x32x32" in out, err
    assert (tmp_path / "a.bcdn").read_bytes() == (tmp_path / "b.bcdn").read_bytes()
    code, out, err = call("export", packed, "-o", tmp_path / "c.onnx", "--input-size", 3, 32, 32)
    assert code == 0 and "input Nx3x32x32" in out, err
    code, _, err = call("export", "bcdnet_b_r18_cifar1", "-o", tmp_path / "d.bcdn")
    assert code == 2 and "did you mean bcdnet_b_r18_cifar10" in err
    counts = [json.loads(call("summary", name, "--json")[1]) for name in (model, packed)]
    assert counts[0] | {"model": ""} == counts[1] | {"model": ""}
    code, out, err = call("verify", packed, packed, "--data", "digits", "--limit", 40)
    assert code == 0 and "the packed file and PyTorch agree" in out, err
    code, _, err = call("analyze", "flips", packed)
    assert code == 2 and "not a run folder" in err


def test_classes_without_names_are_their_numbers(files, tmp_path, call, monkeypatch) -> None:
    loaded = load_model(files[0])
    known = {"preprocess": loaded.preprocess, "provenance": {"data": "digits"}}
    nameless = save_model(tmp_path / "x.safetensors", loaded.model, labels=[], **known)
    assert call("export", nameless, "-o", tmp_path / "x.bcdn")[0] == 0
    assert call("verify", nameless, tmp_path / "x.bcdn", "--data", "digits", "--limit", 3)[0] == 0
    seen: list[int] = []
    image = Digits.image
    monkeypatch.setattr(Digits, "image", lambda self, index: seen.append(index) or image(self, index))
    code, _, err = call("analyze", "error", nameless, "--data", "digits", "--images", 5, "--out", tmp_path)
    assert code == 0 and len(seen) == 5 and max(seen) == 359, err  # from all of the 360


@pytest.mark.parametrize("said", [True, False])
def test_a_network_that_takes_no_images_is_refused_once(tmp_path, call, said) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    preprocess = {"mean": [0.5] * 4, "std": [0.5] * 4, "interpolation": "bilinear", "crop_pct": 1.0}
    packed = export(network, tmp_path / "four.bcdn", input_size=(4, 8, 8), preprocess=preprocess if said else None)
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png")
    problem = "takes 4 channels; images have 1 or 3" if said else "says nothing of preprocessing; export it again"
    code, _, err = call("predict", packed, tmp_path / "a.png")
    assert code == 2 and err.count(problem) == 1
    code, _, err = call("export-web", packed, "-o", tmp_path / "site")
    assert code == 2 and f"four.bcdn: {problem}" in err and not (tmp_path / "site").exists()
    code, _, err = call("serve", packed, "--port", 0)
    assert code == 2 and f"four.bcdn: {problem}" in err


def test_verify_tells_the_two_apart(files, tmp_path, call, monkeypatch) -> None:
    assert not Report(images=1, same_top1=1, max_difference=0.002).agrees
    program = read_program(files[1])
    (head,) = (op for op in program.ops if isinstance(op, Linear))
    stuck = np.where(np.arange(10) == 3, 1e3, 0).astype(np.float32)
    other = write_program(replace(program, tensors=program.tensors | {head.bias: stuck}), tmp_path / "x.bcdn")
    seen: list[int] = []
    image = Digits.image
    monkeypatch.setattr(Digits, "image", lambda self, index: seen.append(index) or image(self, index))
    options = ("--data", "digits", "--limit", 60, "--json")
    good, bad = (json.loads(call("verify", files[0], packed, *options)[1]) for packed in (files[1], other))
    assert (seen[0], seen[59]) == (0, 359)  # from all of the 360
    assert bad["top1_packed"] == pytest.approx(100 * (Digits("test").labels[sorted(set(seen))] == 3).mean())
    assert bad["top1_torch"] == good["top1_torch"] != bad["top1_packed"]


@pytest.mark.parametrize(("label", "problem"), [(None, -1), (12, 12)])
def test_labels_that_no_class_has_are_named(files, tmp_path, call, label, problem) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "PNG")
    stored = [{"bytes": stream.getvalue(), "path": None}] * 6
    table = pa.table({"image": stored, "label": pa.array([0, 1, label, 3, 4, 5], pa.int64())})
    names = json.dumps([str(digit) for digit in range(10)])
    (tmp_path / "data").mkdir()
    pq.write_table(table.replace_schema_metadata({"class_names": names}), tmp_path / "data" / "test.parquet")
    message = f"test.parquet, row 2: label {problem} is not one of 10 classes"
    for words in (
        ("eval", files[0]), ("eval", files[1]), ("verify", files[0], files[1]),
        ("analyze", "error", files[0], "--out", tmp_path / "out"),
    ):  # fmt: skip
        code, _, err = call(*words, "--data", tmp_path / "data")
        assert code == 2 and err.count("error: ") == 1 and message in err, words
