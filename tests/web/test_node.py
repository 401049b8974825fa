"""The same module outside of browsers: in Node, with paths for addresses and bytes for images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_op import packed as packed_ops
from PIL import features

from bcdnet.program.schema import Preprocess
from bcdnet.runtime import InferenceSession
from bcdnet.runtime.preprocess import to_input

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")
MALFORMED = Path(__file__).parents[1] / "malformed"
RNG = np.random.default_rng(0)


def run(site: Path, script: str, *words: object) -> Any:
    """What the script prints, as JSON; it is run in the folder and finds the words in `words`."""
    start = f"""import fs from "node:fs"; import {{ Session }} from "./bcdnet.js";
        const words = process.argv.slice(1); const print = (value) => console.log(JSON.stringify(value)); {script}"""
    command = [str(NODE), "--input-type=module", "--eval", start, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def new_enough() -> None:
    version = subprocess.run([str(NODE), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, re.findall(r"\d+", version)[:2])
    if not ((20, 16) <= (major, minor) < (21, 0) or (major, minor) >= (22, 3)):
        pytest.skip(f"Node {version.strip()} cannot ask for its own modules")


def test_logits_are_those_of_python(site: Path, packed: Path, tmp_path: Path) -> None:
    images = RNG.standard_normal((3, 3, 48, 48), np.float32)
    (tmp_path / "images").write_bytes(images.tobytes())
    script = """const session = await Session.load(words[0]);
        const logits = session.run(new Float32Array(new Uint8Array(fs.readFileSync(words[1])).buffer));
        fs.writeFileSync(words[2], logits); print(session.labels)"""
    assert run(site, script, packed, tmp_path / "images", tmp_path / "logits") == [f"class {i}" for i in range(10)]
    (expected,) = InferenceSession(packed).run(None, {"image": images})
    assert (tmp_path / "logits").read_bytes() == expected.tobytes()


def test_a_gain_is_of_format_2(site: Path, tmp_path: Path) -> None:
    (tmp_path / "gain.bcdn").write_bytes(packed_ops(8))
    images = RNG.standard_normal((2, 3, 5, 6), np.float32)
    (tmp_path / "images").write_bytes(images.tobytes())
    script = """const session = await Session.load(words[0]);
        const logits = session.run(new Float32Array(new Uint8Array(fs.readFileSync(words[1])).buffer));
        fs.writeFileSync(words[2], logits);
        const tell = (file) => Session.load(file).catch((error) => error.message);
        print(await Promise.all(words.slice(3).map(tell)))"""
    refused = [MALFORMED / f"{name}.bcdn" for name in ("format-of-gain", "newer-format")]
    older, newer = run(site, script, tmp_path / "gain.bcdn", tmp_path / "images", tmp_path / "logits", *refused)
    assert 'unknown key "gain"' in older and "format 3, newer than this page reads (2)" in newer
    expected = InferenceSession(tmp_path / "gain.bcdn", threads=1).run(["logits"], {"image": images})[0]
    assert (tmp_path / "logits").read_bytes() == expected.tobytes()


def test_an_image_is_its_bytes(site: Path, packed: Path, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (70, 90, 4), np.uint8)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    script = """const session = await Session.load(words[0]);
        const data = fs.readFileSync(words[1]); // a Buffer, as decoders give it
        const predict = (data) => session.predict({ data, width: 90, height: 70 });
        print([predict(data), predict(new Uint8ClampedArray(data))])"""
    first, second = run(site, script, "model.bcdn", tmp_path / "pixels")
    (expected,) = InferenceSession(packed).predict([pixels[..., :3]], topk=5)
    assert first == second and [row["label"] for row in first] == [row.label for row in expected]
    np.testing.assert_allclose([row["probability"] for row in first], [row.probability for row in expected], 1e-6)


@pytest.mark.skipif(int(features.version("pil").split(".")[0]) < 13, reason="Pillow 12 resizes tall images otherwise")
def test_images_are_prepared_bit_by_bit_as_python_does(site: Path, tmp_path: Path) -> None:
    """Of any size and shape, for any input; what lies outside of the crop is never resized."""
    cases: list[tuple[dict[str, Any], bytes, bytes]] = []
    for index in range(240):
        filters = ("nearest", "bilinear", "bicubic", "lanczos")
        crop_pct = float(RNG.choice([RNG.uniform(0.1, 1), 0.875, 1]))
        size = (int(RNG.choice([1, 3])), *(int(n) for n in RNG.integers(1, 50, 2)))
        mean, std = (0.1, 0.45, 0.5)[: size[0]], (0.3, 0.229, 0.25)[: size[0]]
        preprocess = Preprocess(size, mean, std, filters[index % 4], crop_pct)
        pixels = RNG.integers(0, 256, (*RNG.integers(1, 90, 2), 4), np.uint8)
        keys = {"inputSize": size, "mean": mean, "std": std, "interpolation": filters[index % 4], "cropPct": crop_pct}
        shape = {"preprocess": keys, "height": pixels.shape[0], "width": pixels.shape[1]}
        cases.append((shape, pixels.tobytes(), to_input(pixels[..., :3], preprocess).tobytes()))
    (tmp_path / "cases").write_text(json.dumps([shape for shape, _, _ in cases]))
    (tmp_path / "pixels").write_bytes(b"".join(pixels for _, pixels, _ in cases))
    script = """import { toInput } from "./preprocess.js";
        const bytes = fs.readFileSync(words[1]); let at = 0;
        const inputs = JSON.parse(fs.readFileSync(words[0])).map(({ preprocess, width, height }) => {
          const data = bytes.subarray(at, (at += 4 * width * height));
          return Buffer.from(toInput({ data, width, height }, preprocess).buffer).toString("hex");
        });
        print(inputs)"""
    got = run(site, script, tmp_path / "cases", tmp_path / "pixels")
    wrong = [shape for (shape, _, expected), mine in zip(cases, got, strict=True) if mine != expected.hex()]
    assert wrong == []


def test_a_file_may_be_an_address_too(site: Path, address: str) -> None:
    script = """const inline = "data:;base64," + fs.readFileSync("model.bcdn").toString("base64");
        const sources = ["./model.bcdn", process.cwd() + "/model.bcdn", inline, ...words, new URL(words[0])];
        print(await Promise.all(sources.map(async (source) => (await Session.load(source)).labels.length)))"""
    assert run(site, script, (site / "model.bcdn").as_uri(), f"{address}/model.bcdn") == [10] * 6


def test_bytes_are_taken_as_they_were_given(site: Path) -> None:
    script = """const file = fs.readFileSync("model.bcdn"), padded = new Uint8Array(file.length + 7);
        padded.set(file, 3);
        const image = new Float32Array(3 * 48 * 48).fill(0.5);
        const expected = (await Session.load("model.bcdn")).run(image);
        const sources = [file, padded.subarray(3, -4), padded.buffer.slice(3, -4)];
        const loads = sources.map((source) => Session.load(source));
        padded.fill(1); file.fill(1);
        print((await Promise.all(loads)).map((session) => session.run(image).every((x, i) => x === expected[i])))"""
    assert run(site, script) == [True] * 3


def test_mistakes_are_told(site: Path) -> None:
    script = """const session = await Session.load("model.bcdn");
        const image = { data: new Uint8Array(12), width: 2, height: 2 };
        const tries = [() => Session.load("none.bcdn"), () => Session.load("bcdnet.wasm"), () => session.predict(image),
          () => session.predict({ ...image, data: [] }), () => session.predict(image.data),
          () => session.predict({ ...image, width: 1.5 }), () => session.predict({ ...image, width: -2, height: -2 }),
          ...[-1, 0, 2.7, null].map((topk) => () => session.rank(new Float32Array(10), topk))];
        const tell = async (attempt) => attempt();
        print(await Promise.all(tries.map((attempt) => tell(attempt).catch((error) => error.message))))"""
    none, broken, short, array, bare, split, negative, *topk = run(site, script)
    assert split == "1.5 x 2 are no whole pixels" and negative.startswith("expected an ImageData")
    assert topk == [f"topk: must be a whole number of at least 1, got {value}" for value in ("-1", "0", "2.7", "null")]
    assert "no such file" in none and "none.bcdn" in none
    assert broken.startswith("the file ends within its header")
    assert short == "expected 2 x 2 x 4 bytes, got 12"
    assert array == "there is no canvas here: expected RGBA bytes as {data, width, height}"
    assert bare.startswith("expected an ImageData")


def test_too_little_memory_is_no_fault_of_the_file(site: Path) -> None:
    """Of the core's 2 GiB all but what the weights need before they are laid out."""
    script = """const instantiate = WebAssembly.instantiate;
        WebAssembly.instantiate = async (...words) => {
          const instance = await instantiate(...words), { malloc, free } = instance.exports;
          const kept = malloc(fs.statSync("model.bcdn").size + 2 ** 16);
          for (let size = 2 ** 27; size >= 2 ** 10; ) if (malloc(size) === 0) size /= 2;
          free(kept);
          return instance;
        };
        print(await Session.load("model.bcdn").catch((error) => [error.name, error.message]))"""
    assert run(site, script) == ["Error", "out of memory"]


def test_the_declared_types_are_those_of_the_class(site: Path) -> None:
    declared = (site / "bcdnet.d.ts").read_text()
    body = declared[declared.index("class Session") :]
    members = set(re.findall(r"^  (?:static |readonly )?(\w+)(?=[(:])", body, re.MULTILINE)) - {"constructor"}
    script = """const session = await Session.load("model.bcdn");
        const names = [...Object.keys(session), ...Object.getOwnPropertyNames(Session.prototype)];
        print([...names, "load"].filter((name) => !name.startsWith("_") && name !== "constructor"))"""
    assert members == set(run(site, script))
