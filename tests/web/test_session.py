"""A session in a page of one's own where memory, the network or a stack runs out."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from halfway import IMAGE, halfway
from mutations import mutated
from wide import HALVES, wide

from bcdnet.errors import ProgramError
from bcdnet.program import read_program
from bcdnet.program.file import write_program
from bcdnet.program.reference import execute
from bcdnet.program.schema import buffer_bytes


def test_the_core_is_fetched_again_after_a_failure(page: Any) -> None:
    told = page.evaluate(
        """async () => {
          const { Session } = await import("./bcdnet.js");
          const model = await (await fetch("model.bcdn")).arrayBuffer();
          const real = window.fetch;
          window.fetch = async () => { throw new Error("no network"); };
          const told = await Session.load(model).catch((error) => error.message);
          window.fetch = real;
          return [told, (await Session.load(model)).labels.length];
        }"""
    )
    assert told == ["no network", 10]


def test_a_batch_that_is_too_large_is_an_error_and_leaves_nothing(page: Any, tmp_path: Path) -> None:
    told = page.evaluate(
        """async (model) => {
          const { Session } = await import("./bcdnet.js");
          const session = await Session.load(Uint8Array.from(atob(model), (c) => c.charCodeAt(0)).buffer);
          const memory = () => session._core.exports.memory.buffer.byteLength;
          const refused = (count) => {
            try {
              session.run(new Float32Array(count));
            } catch (error) {
              return error.message;
            }
          };
          const before = memory();
          const told = new Set([refused(2 ** 14), refused(2 ** 14 + 1)]);
          for (let i = 0; i < 400; ++i) told.add(refused(2 ** 14 - 1));
          return [[...told], memory() - before, session.run(new Float32Array([2])).every((logit) => logit === 2)];
        }""",
        # So many outputs that those of some thousand images fill 32 bits.
        base64.b64encode(write_program(wide(np.ones(2**16, np.float32)), tmp_path / "wide.bcdn").read_bytes()).decode(),
    )
    assert told == [["out of memory"], 0, True]


def test_weights_of_float16_are_what_they_stand_for(page: Any, tmp_path: Path) -> None:
    logits = page.evaluate(
        """async (model) => {
          const { Session } = await import("./bcdnet.js");
          const session = await Session.load(Uint8Array.from(atob(model), (c) => c.charCodeAt(0)).buffer);
          return [...session.run(new Float32Array([1]))];
        }""",
        base64.b64encode(write_program(wide(HALVES), tmp_path / "wide.bcdn").read_bytes()).decode(),
    )
    assert np.array_equal(logits, HALVES)


def test_multiply_adds_are_rounded_once(page: Any, tmp_path: Path) -> None:
    program, twice = halfway()
    logits = page.evaluate(
        """async ([model, image]) => {
          const { Session } = await import("./bcdnet.js");
          const session = await Session.load(Uint8Array.from(atob(model), (c) => c.charCodeAt(0)).buffer);
          return [...session.run(new Float32Array(image))];
        }""",
        [
            base64.b64encode(write_program(program, tmp_path / "halfway.bcdn").read_bytes()).decode(),
            IMAGE.ravel().tolist(),
        ],
    )
    expected = execute(program, IMAGE)[0][0]
    assert (expected != twice).any() and np.array_equal(np.float32(logits), expected)


def test_long_strings_are_read(page: Any) -> None:
    same = page.evaluate(
        """async () => {
          const { parseJson } = await import("./json.js");
          const long = ["x".repeat(9e6), '"'.repeat(4e6), "\\\\"];
          const read = parseJson(JSON.stringify(long));
          return read.length === long.length && read.every((text, i) => text === long[i]);
        }"""
    )
    assert same


def test_classes_come_in_the_order_of_their_logits(page: Any) -> None:
    """Those whose probability is 0 too; of equals the one that comes first."""
    best = page.evaluate(
        """async () => {
          const { Session } = await import("./bcdnet.js");
          const session = await Session.load("model.bcdn");
          return session.rank(new Float32Array([-900, 5, -800, 5, 0, 0, 0, 0, 0, 2000]), 10);
        }"""
    )
    assert [row["index"] for row in best] == [9, 1, 3, 4, 5, 6, 7, 8, 2, 0]
    assert [row["probability"] for row in best] == [1, *[0] * 9]


def test_mistakes_are_told(page: Any) -> None:
    told = page.evaluate(
        """async () => {
          const { Session } = await import("./bcdnet.js");
          const file = await (await fetch("model.bcdn")).arrayBuffer();
          const session = await Session.load(file);
          const tries = [
            () => Session.load([1, 2]),
            () => Session.load(),
            () => session.predict(new File([], "cat.png")),
            () => session.predict(new Image()),
            () => session.predict(),
            () => session.rank(session.run(new Float32Array(2 * 3 * 48 * 48))),
            () => session.rank(new Float32Array(10).fill(Infinity)),
          ];
          const told = [];
          for (const attempt of tries) told.push(await (async () => attempt())().catch((error) => error.message));
          return told;
        }"""
    )
    no_image = "expected an ImageData, ImageBitmap, image, video or canvas that is loaded and not empty"
    assert told[:6] == [
        *["expected a URL, bytes (an ArrayBuffer or a view of one) or a Blob"] * 2,
        *[no_image] * 3,
        "expected the logits of one image",
    ]
    assert told[6].startswith("the logits are not finite")


def test_a_browser_that_cannot_run_the_core_is_told_what_it_lacks(page: Any) -> None:
    page.route("**/bcdnet.wasm", lambda route: route.fulfill(body=b"\0asm\1\0\0\0of another time"))
    told = page.evaluate(
        """async () => {
          const { Session } = await import("./bcdnet.js");
          return Session.load("model.bcdn").catch((error) => error.message);
        }"""
    )
    assert told.startswith("the core needs WebAssembly with SIMD and exceptions, and a policy that allows it (")


@pytest.mark.slow
def test_photos_larger_than_a_phones_canvas_are_seen_whole(page: Any) -> None:
    same = page.evaluate(
        """async () => {
          const { Session } = await import("./bcdnet.js");
          const { toInput } = await import("./preprocess.js");
          const session = await Session.load("model.bcdn");
          const canvas = document.createElement("canvas");
          const [width, height] = [canvas.width, canvas.height] = [5000, 4000];
          const context = canvas.getContext("2d", { willReadFrequently: true });
          for (let i = 0; i < 200; ++i) { // between transparent places
            context.fillStyle = `hsl(${37 * i} 80% 50%)`;
            context.fillRect((i * 1237) % width, (i * 619) % height, 400, 300);
          }
          const expected = toInput(context.getImageData(0, 0, width, height), session.preprocess);
          window.OffscreenCanvas = class extends OffscreenCanvas {
            constructor(width, height) {
              if (width * height > 2 ** 24) throw new Error("too large for this phone");
              super(width, height);
            }
          };
          return session.prepare(canvas).every((value, i) => value === expected[i]);
        }"""
    )
    assert same


@pytest.mark.slow
def test_it_takes_the_files_that_python_takes(page: Any, tmp_path: Path) -> None:
    """Of files with something changed, anywhere, where their maps fit a browser."""
    contents, expected = [], []
    for kind, content in mutated(1500):
        file = tmp_path / "x.bcdn"
        file.write_bytes(content)
        try:
            program = read_program(file)
        except ProgramError:
            program = None
        if program is None or sum(map(buffer_bytes, program.buffers)) < 2**24:
            contents.append(base64.b64encode(content).decode())
            expected.append((kind, program is not None))
    taken = page.evaluate(
        """async (files) => {
          const { Session } = await import("./bcdnet.js");
          const taken = [];
          for (const file of files) {
            const bytes = Uint8Array.from(atob(file), (c) => c.charCodeAt(0));
            taken.push(await Session.load(bytes.buffer).then(() => true, () => false));
          }
          return taken;
        }""",
        contents,
    )
    wrong = [(index, *what) for index, (what, got) in enumerate(zip(expected, taken, strict=True)) if got != what[1]]
    assert wrong == []
    assert sum(taken) > 100
