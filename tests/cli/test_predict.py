"""`bcdnet predict` as a user meets it."""

from __future__ import annotations

import contextlib
import csv
import errno
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from bcdnet.cli.main import main
from bcdnet.errors import DataError
from bcdnet.runtime import InferenceSession
from bcdnet.runtime import sources as sources_module
from bcdnet.runtime.prediction import Prediction
from bcdnet.runtime.sources import find_images


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code or 0, captured.out, captured.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good images of three kinds, one nested, one hidden; one that is damaged and one that is no image."""
    random = np.random.default_rng(0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.webp", "deep/[d].png", ".hidden.png"):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:300])
    (tmp_path / "in" / "fake.jpg").write_text("no image")
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    return tmp_path / "in"


GOOD = ["a.png", "b.jpg", "c.webp", "deep/[d].png"]


def test_a_folder_as_json_loses_nothing(packed_file, folder, capsys) -> None:
    code, out, err = call(capsys, "predict", packed_file, folder, "--json", "--topk", 2, "--batch", 2)
    entries = {entry["file"]: entry for entry in json.loads(out)}
    assert code == 1 and "2 of 6 images could not be read" in err
    assert set(entries) == {str(folder / name) for name in [*GOOD, "cut.png", "fake.jpg"]}
    for name in ("cut.png", "fake.jpg"):
        assert entries[str(folder / name)]["error"].startswith(str(folder / name))
        assert f"skipped {folder / name}: " in err
    expected = InferenceSession(packed_file).predict([folder / name for name in GOOD], topk=2)
    for name, best in zip(GOOD, expected, strict=True):
        found = entries[str(folder / name)]["predictions"]
        assert [(row["label"], row["index"]) for row in found] == [(row.label, row.index) for row in best]
        assert [row["probability"] for row in found] == [row.probability for row in best]


def test_csv_and_table_and_exit_code_0(packed_file, folder, capsys) -> None:
    glob = folder / "**" / "[[]d].png"
    code, out, _ = call(capsys, "predict", packed_file, folder / "a.png", glob, "--csv", "--topk", 9)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 2 * 6
    assert [row["file"] for row in rows[::6]] == [str(folder / "a.png"), str(folder / "deep/[d].png")]
    assert sum(float(row["probability"]) for row in rows[:6]) == pytest.approx(1, abs=1e-4)
    code, out, _ = call(capsys, "predict", packed_file, folder / "deep/[d].png")
    assert code == 0 and out.splitlines()[1].split()[:2] == [f"{folder}/deep/[d].png", rows[6]["label"]]


def test_annotated_copies(packed_file, folder, tmp_path, capsys) -> None:
    twice = (folder / "a.png", folder / "a.png")
    code, *_ = call(capsys, "predict", packed_file, folder, *twice, "--annotate", tmp_path / "out")
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert code == 1 and written == {*GOOD, "a-2.png", "a-3.png"}
    with Image.open(tmp_path / "out/a.png") as copy:
        assert copy.width == 320 and copy.height > 320 * 20 // 30


def test_long_pictures_have_copies_too_and_what_has_none_costs_no_other(packed_file, tmp_path, capsys) -> None:
    for name, size in (("thin.jpg", (1, 300)), ("long.webp", (300, 16383)), ("ok.png", (30, 20))):
        Image.new("RGB", size).save(tmp_path / name)
    code, out, err = call(capsys, "predict", packed_file, tmp_path, "--annotate", tmp_path / "out", "--json")
    assert code == 1 and len(json.loads(out)) == 3 and "1 of 3 images could not be read or copied" in err
    assert "long.webp: a copy of 320 x" in err and "does not fit into this format" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"thin.jpg", "ok.png"}
    with Image.open(tmp_path / "out" / "thin.jpg") as copy:
        assert copy.width == 320 and copy.height < 9000


def test_a_copy_whose_name_is_too_long_costs_no_other(packed_file, tmp_path, capsys) -> None:
    long = f"{'n' * 240}.gif"
    for name in ("a.png", long, "z.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    code, out, err = call(
        capsys, "predict", packed_file, tmp_path, "--annotate", tmp_path / "out" / ("f" * 9), "--json"
    )
    assert (code, len(json.loads(out))) == (0, 3)
    (tmp_path / long).rename(tmp_path / f"{'n' * 250}.gif")
    code, out, err = call(
        capsys,
        "predict",
        packed_file,
        tmp_path / f"{'n' * 250}.gif",
        tmp_path / "z.png",
        "--annotate",
        tmp_path / "out",
        "--json",
    )
    assert code == 1 and len(json.loads(out)) == 2 and "this copy's name is too long" in " ".join(err.split())
    assert (tmp_path / "out" / "z.png").is_file()


def test_a_copy_never_takes_the_place_of_its_original(packed_file, folder, capsys, monkeypatch) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    monkeypatch.chdir(folder)
    for sources in ((".",), ("a.png",), (folder / "b.jpg",)):
        code, out, err = call(capsys, "predict", packed_file, *sources, "--annotate", ".")
        assert (code, out) == (2, "") and "would write over" in err and "choose another output" in err
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_a_numbered_copy_does_not_either(packed_file, folder, tmp_path, capsys) -> None:
    out = tmp_path / "par" / "root"
    out.mkdir(parents=True)
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        (place / "x.png").write_bytes((folder / "a.png").read_bytes())
    original = (folder / "a.png").read_bytes()
    (out / "x-2.png").write_bytes(original)
    sources = (tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "par")
    code, *_ = call(capsys, "predict", packed_file, *sources, "--annotate", out)
    assert code == 0 and (out / "x-2.png").read_bytes() == original
    assert {str(path.relative_to(out)) for path in out.rglob("*.png")} == {
        "x.png", "x-2.png", "x-3.png", "root/x-2.png",
    }  # fmt: skip


def test_a_glob_takes_what_it_matches_as_a_folder_does(packed_file, folder, capsys) -> None:
    (folder / "empty").mkdir()
    (folder / "gone.png").symlink_to("nowhere.png")
    found = find_images([str(folder / "*")])
    assert [str(source.relative) for source in found if "[" in source.name] == ["[d].png"]
    code, out, err = call(capsys, "predict", packed_file, folder / "*.png", "--json")
    assert code == 1 and f"skipped {folder / 'gone.png'}: no such file" in err and len(json.loads(out)) == 3
    code, _, err = call(capsys, "predict", packed_file, folder / "empt*")
    assert code == 2 and "empt*: no images in the folders that match it" in err


def test_images_come_in_sorted_order_but_hidden_ones(tmp_path, monkeypatch) -> None:
    names = ["b/2.png", "b/1.PNG", "b/.hidden.png", "a/z/1.png", "a/y.jpeg", ".git/1.png", "c.txt", "d.TIFF", "0.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for source in (".", str(tmp_path)):
        found = [str(source.relative) for source in find_images([source])]
        assert found == ["0.png", "d.TIFF", "a/y.jpeg", "a/z/1.png", "b/1.PNG", "b/2.png"]
    globbed = [source.name for source in find_images(["b/*"])]
    assert globbed == ["b/1.PNG", "b/2.png"] == sorted(globbed)
    assert [source.name for source in find_images(["b/2.png", "?.png", "b/1.PNG"])] == ["b/2.png", "0.png", "b/1.PNG"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # which those who run the tests as root may read
    with pytest.raises(DataError, match=r"locked: cannot read this folder: Permission denied"):
        find_images([str(tmp_path)])


def test_names_and_labels_are_nothing_that_a_terminal_obeys(packed_file, folder, tmp_path, capsys) -> None:
    from bcdnet.program import read_program, write_program

    labels = tuple(f"{label}\u202e" for label in "abcdef")  # turns round what follows
    model = write_program(replace(read_program(packed_file), labels=labels), tmp_path / "m.bcdn")
    odd = folder / "a\x1b[2J\nb.png"
    (folder / "a.png").rename(odd)
    code, out, _ = call(capsys, "predict", model, odd, "--topk", 1)
    assert (
        code == 0 and "\x1b" not in out and "\u202e" not in out and out.count("\n") == 2 and "a\\x1b[2J\\nb.png" in out
    )


def test_links_that_lead_round_show_each_image_once(folder) -> None:
    (folder / "self").symlink_to(folder)
    (folder / "deep" / "up").symlink_to(folder)
    assert [source.relative.name for source in find_images([str(folder)])].count("a.png") == 1


def test_a_name_that_no_terminal_shows_costs_no_result(packed_file, folder) -> None:
    odd = folder / "caf\udce9.png"  # what Python makes of bytes that are no UTF-8
    (folder / "a.png").rename(odd)
    code = f"from bcdnet.cli.main import main; main(['predict', {str(packed_file)!r}, {str(odd)!r}, '--csv'])"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "caf\\udce9.png,1," in done.stdout, done.stderr


def test_what_cannot_be_a_picture_is_named(packed_file, tmp_path, capsys) -> None:
    Image.new("L", (1, 2_000_000)).save(tmp_path / "thin.png")
    Image.new("F", (8, 8), 0.5).save(tmp_path / "float.tif")
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    code, _, err = call(capsys, "predict", packed_file, tmp_path)
    assert f"skipped {tmp_path / 'phone.HEIC'}: is HEIC, which this Pillow does not read; save it as JPEG" in err
    assert code == 1 and f"skipped {tmp_path / 'thin.png'}: is too long for its width" in err
    assert f"skipped {tmp_path / 'float.tif'}: holds floating-point numbers" in err


def test_limit_of_pixels(packed_file, folder, capsys) -> None:
    code, _, err = call(capsys, "predict", packed_file, folder / "a.png", "--max-pixels", 599)
    assert code == 1 and "a.png: has 30 x 20 pixels; at most 599 are allowed" in err


def test_standard_input_without_torch(packed_file, folder) -> None:
    code = (
        "import sys\nfrom bcdnet.cli.main import main\n"
        f"try: main(['predict', {str(packed_file)!r}, '-', {str(folder / 'b.jpg')!r}, '--json'])\n"
        "except SystemExit as left: print(left.code, 'torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=(folder / "a.png").read_bytes(), capture_output=True)
    assert done.stderr.decode().splitlines()[-1] == "0 False"
    assert [entry["file"] for entry in json.loads(done.stdout)] == ["standard input", str(folder / "b.jpg")]


def test_json_that_is_stopped_can_be_read(packed_file, folder, capsys, monkeypatch) -> None:
    ranks = iter(["first"])

    def rank(self, logits, topk):
        if next(ranks, None) is None:
            raise DataError("the logits of 1 images are not finite")
        return [[Prediction("cat", 1.0, 0)]]

    monkeypatch.setattr(InferenceSession, "rank", rank)
    code, out, err = call(capsys, "predict", packed_file, folder / "a.png", folder / "b.jpg", "--json", "--batch", 1)
    assert code == 2 and "not finite" in err and [entry["file"] for entry in json.loads(out)] == [str(folder / "a.png")]


@pytest.mark.parametrize(
    "error, code", [(OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_what_was_classified_is_shown_though_it_is_stopped(
    packed_file, folder, capsys, monkeypatch, error, code
) -> None:
    monkeypatch.setattr("bcdnet.cli.predict.Copies.write", Mock(side_effect=[None, error]))
    names = (folder / "a.png", folder / "b.jpg")
    left, out, _ = call(capsys, "predict", packed_file, *names, "--annotate", folder / "out")
    assert left == code and [line.split()[0] for line in out.splitlines()] == ["image", str(names[0])]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.png"], "none.png: no such file"),
        (["none*.png"], "none*.png: no such file, and nothing matches it"),
        (["http://127.0.0.1:9/x.png"], "is not fetched unless you say --allow-urls"),
        (["EMPTY"], "no images in this folder"),
        ([""], "an empty name means no image"),
        (["99999999999999999999"], "99999999999999999999: no such file"),
        (["http://[::1", "--allow-urls"], "http://[::1: is no address"),
        (["EMPTY/../a.png", "--annotate", "FILE"], "Not a directory"),
        (["EMPTY/../a.png", "--annotate", "EMPTY/../a.png"], "a.png: is a file; give --annotate a folder"),
        (["none.png", "--workers", "3"], "--workers is for --engine ray"),
        (["none.png", "--json", "--csv"], "--json and --csv exclude each other"),
    ],
)
def test_mistakes_are_one_line(packed_file, tmp_path, capsys, arguments, message) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    places = {"EMPTY": str(tmp_path / "empty"), "FILE": str(tmp_path / "file" / "x")}
    arguments = [re.sub("|".join(places), lambda found: places[found[0]], word) for word in arguments]
    code, out, err = call(capsys, "predict", packed_file, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_addresses(packed_file, folder, capsys, monkeypatch) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=folder)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there, missing = (f"http://127.0.0.1:{server.server_port}/{name}" for name in ("a.png", "none.png"))
        code, out, err = call(capsys, "predict", packed_file, there, missing, "--allow-urls", "--json")
        (local,) = InferenceSession(packed_file).predict([folder / "a.png"], topk=1)
        assert code == 1 and f"skipped {missing}: the server answers 404 File not found" in err
        assert json.loads(out)[0]["predictions"][0]["probability"] == local[0].probability
        (folder / "ü b%.png").write_bytes((folder / "a.png").read_bytes())
        for address in (f"{there[:-5]}ü b%25.png?q=ä", f"{there[:-5]}%C3%BC%20b%25.png", there.replace("http", "HTTP")):
            assert call(capsys, "predict", packed_file, address, "--allow-urls")[0] == 0, address
        size = (folder / "a.png").stat().st_size
        for most, expected in ((size, 0), (size - 1, 1)):
            monkeypatch.setattr(sources_module, "MAX_DOWNLOAD", most)
            code, _, err = call(capsys, "predict", packed_file, there, "--allow-urls")
            assert code == expected and ("is longer than" in err) == bool(expected)
        server.shutdown()


def test_what_an_address_gives_in_part_is_no_image(packed_file, capsys, monkeypatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            short = self.path == "/short.png"
            if short:
                self.send_header("Content-Length", "99999")
            self.end_headers()
            if short:
                Image.new("RGB", (16, 16)).save(self.wfile, "PNG")  # whole, as it seems
                return
            with contextlib.suppress(OSError):
                while not done.wait(0.05):
                    self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    done = threading.Event()
    monkeypatch.setattr(sources_module, "DOWNLOAD_SECONDS", 0.3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        addresses = [f"http://127.0.0.1:{server.server_port}/{name}.png" for name in ("slow", "short")]
        code, _, err = call(capsys, "predict", packed_file, *addresses, "--allow-urls")
        done.set()
        server.shutdown()
    assert code == 1 and "slow.png: cannot be fetched (not all there after 0.3 seconds)" in err
    assert re.search(r"short\.png: cannot be fetched \(it ended 99\d{3} bytes early\)", err)


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_what_comes_from_a_pipe_and_is_no_image_is_said_at_once(packed_file, capsys, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"no image",), daemon=True)
    writer.start()
    code, _, err = call(capsys, "predict", packed_file, tmp_path / "pipe")
    assert code == 1 and "pipe: is not an image" in err


@pytest.mark.skipif(os.name != "posix", reason="sends a signal of POSIX")
def test_waiting_for_standard_input_can_be_interrupted(packed_file) -> None:
    # What runs in the background may have been told to ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from bcdnet.runtime import sources\nread = sources._read_stdin\n"
    code += "sources._read_stdin = lambda: (print('waiting', flush=True), read())[1]\n"
    code += "from bcdnet.cli.main import main\nmain()"
    arguments = [sys.executable, "-c", code, "predict", packed_file, "-"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_webcam(packed_file, capsys, monkeypatch, tmp_path) -> None:
    frames = [np.full((8, 8, 3), (255, 0, 0), np.uint8), None]

    class Camera:
        def __init__(self, index: int) -> None:
            assert index == 3

        def read(self) -> tuple[bool, np.ndarray | None]:
            frame = frames.pop(0)
            return frame is not None, frame

        def release(self) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cv2", type("cv2", (), {"VideoCapture": Camera}))
    (source,) = find_images(["3"])
    assert source.open().getpixel((0, 0)) == (0, 0, 255)  # OpenCV's order is blue, green, red
    code, _, err = call(capsys, "predict", packed_file, "3")
    assert code == 1 and "webcam 3: gives no picture" in err
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, err = call(capsys, "predict", packed_file, "3")
    assert code == 2 and "pip install opencv-python-headless" in err
