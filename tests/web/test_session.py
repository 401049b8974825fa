"""A session in a page of one's own where memory, the network or a stack runs out."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from bcdnet.program.file import write_program
from bcdnet.program.schema import Buffer, GlobalAvgPool, Linear, Port, Program, Transpose


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


def wide(path: Path) -> Path:
    """One value in, 65536 times the same out: so many that the outputs of some thousand images fill 32 bits."""
    classes = 2**16
    return write_program(
        Program(
            buffers=(
                Buffer("image", (1, 1, 1)),
                Buffer("map", (1, 1, 1)),
                Buffer("vector", (1,)),
                Buffer("vector", (classes,)),
            ),
            ops=(
                Transpose(name="map", input=0, output=1),
                GlobalAvgPool(name="pool", input=1, output=2),
                Linear(name="head", input=2, output=3, weight="ones", bias=None),
            ),
            inputs=(Port("image", 0),),
            outputs=(Port("logits", 3),),
            tensors={"ones": np.ones((classes, 1), np.float32)},
        ),
        path,
    )


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
        base64.b64encode(wide(tmp_path / "wide.bcdn").read_bytes()).decode(),
    )
    assert told == [["out of memory"], 0, True]


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
