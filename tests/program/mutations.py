"""Mutations of packed files for the fuzzer: of the program, of the container around it, and of plain bytes.

A mutation takes a `Seed` and a random number generator and gives the bytes of a file. Most leave the rest of the file
intact, so that the damage reaches the checks behind the first one.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from every_op import packed

KEY = "bcdnet_program"
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 3.5, 1e300, 65536, 65537, 2**31, 2**63, 10**30, "", "x", "none", "\ud800", [], {},
    [1], [0, 0], [255, 255], {"a": 1}, "a\nb", "conv2d", "map", "bits", "vector", 0.1,
]  # fmt: skip
NUMBERS = [0, 1, 2, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


@dataclass(frozen=True)
class Seed:
    """A valid file in parts: the program and the container's header, pickled since that copies fastest; the data."""

    program: bytes
    header: bytes
    data: bytes

    @classmethod
    def parse(cls, content: bytes) -> Seed:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        program = json.loads(header.pop("__metadata__")[KEY])
        return cls(pickle.dumps(program), pickle.dumps(header), content[start:])

    def file(
        self, program: Any = None, header: Any = None, text: str | None = None, data: bytes | None = None
    ) -> bytes:
        """The file with some of its parts replaced; `text` stands for the program's JSON."""
        if text is None:
            text = json.dumps(pickle.loads(self.program) if program is None else program, separators=(",", ":"))
        tensors = pickle.loads(self.header) if header is None else header
        whole = json.dumps({"__metadata__": {KEY: text}} | tensors, separators=(",", ":")).encode()
        whole += b" " * (-len(whole) % 8)
        return len(whole).to_bytes(8, "little") + whole + (self.data if data is None else data)


def change(document: Any, rng: random.Random) -> None:
    """Replace, remove, repeat or add one thing somewhere in a JSON document."""
    target = document
    while True:
        keys = list(target) if isinstance(target, dict) else range(len(target))
        if not keys:
            return
        key = rng.choice(keys)
        inner = target[key]
        if not (isinstance(inner, (dict, list)) and inner and rng.random() < 0.85):
            break
        target = inner
    action = rng.randrange(6)
    if action == 0 and isinstance(target, list):
        target.insert(key, copy.deepcopy(inner))
    elif action == 1:
        del target[key]
    elif action <= 3 and type(inner) is int:
        target[key] = inner + rng.choice([-1, 1, 1, 2, 4, 32])
    elif action == 4:
        # What is right in one place is often wrong in another, and gets past the checks of types.
        other = rng.choice(keys)
        target[key], target[other] = target[other], target[key]
    else:
        target[key] = copy.deepcopy(rng.choice(VALUES))


def program(seed: Seed, rng: random.Random) -> bytes:
    """Values, keys and elements of the program."""
    document = pickle.loads(seed.program)
    for _ in range(rng.choice([1, 1, 2, 3])):
        change(document, rng)
    return seed.file(program=document)


def text(seed: Seed, rng: random.Random) -> bytes:
    """Characters of the program's JSON: what no dictionary can hold, such as keys given twice."""
    content = json.dumps(pickle.loads(seed.program), separators=(",", ":"))
    for _ in range(rng.randint(1, 2)):
        start = rng.randrange(len(content))
        end = start + rng.choice([0, 1, 1, 2, 20])
        parts = [
            "",
            "",
            ",",
            "}",
            "]",
            "[",
            "{",
            '"',
            "0",
            "9",
            "-",
            "e9",
            "NaN",
            "\\ud800",
            "\0",
            "é",
            content[start:end],
        ]
        content = content[:start] + rng.choice(parts) + content[end:] if rng.random() < 0.7 else content[:end]
        content = content or "0"
    return seed.file(text=content)


def header(seed: Seed, rng: random.Random) -> bytes:
    """Names, types, shapes and offsets of the tensors, as the container tells them."""
    tensors = pickle.loads(seed.header)
    entry = tensors[rng.choice(list(tensors))]
    shape, offsets = entry["shape"], entry["data_offsets"]
    match rng.randrange(6):
        case 0:
            entry["dtype"] = rng.choice(["F32", "U32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F4", "X", "", 3])
        case 1:
            shape[rng.randrange(len(shape))] = rng.choice(NUMBERS)
        case 2:
            offsets[rng.randrange(2)] += rng.choice([-4, -1, 1, 4, 2**31, -(2**31)])
        case 3:
            rng.shuffle(shape)
        case 4:
            tensors[rng.choice(["x", "", "a\nb", "é", "__metadata__"])] = copy.deepcopy(entry)
        case _:
            change(tensors, rng)
    if rng.random() < 0.2:
        change(tensors, rng)
    return seed.file(header=tensors)


def length(seed: Seed, rng: random.Random) -> bytes:
    """The number that says how long the header is."""
    content = bytearray(seed.file())
    right = int.from_bytes(content[:8], "little")
    wrong = rng.choice(NUMBERS) if rng.random() < 0.5 else right + rng.randint(-64, 64)
    content[:8] = (wrong % 2**64).to_bytes(8, "little")
    return bytes(content)


def data(seed: Seed, rng: random.Random) -> bytes:
    """Weights: other bits, NaN and infinities, padding bits."""
    content = bytearray(seed.data)
    for _ in range(rng.randint(1, 2)):
        start = 4 * rng.randrange(len(content) // 4)
        word = rng.choice([rng.randbytes(4), b"\0\0\x80\x3f", b"\0\0\x80\x7f", b"\xff" * 4, b"\0" * 4, b"\1\0\0\0"])
        content[start : start + 4] = word
    return seed.file(data=bytes(content))


def bits(seed: Seed, rng: random.Random) -> bytes:
    """Single bits anywhere in the file."""
    content = bytearray(seed.file())
    for _ in range(rng.randint(1, 6)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def cut(seed: Seed, rng: random.Random) -> bytes:
    """Bytes missing, inserted or exchanged for others."""
    content = bytearray(seed.file())
    start = rng.randrange(len(content))
    if rng.random() < 0.3:
        return bytes(content[:start])
    end = start + rng.choice([0, 0, 1, 4, 8, 1000])
    content[start:end] = rng.randbytes(rng.choice([0, 1, 4, 8, 1000]))
    return bytes(content) + rng.choice([b"", b"", b"\0", b"\0" * 4096])


MUTATIONS: dict[Callable[[Seed, random.Random], bytes], float] = {
    program: 45, text: 8, header: 17, length: 6, data: 10, bits: 8, cut: 6,
}  # fmt: skip


def mutate(seed: Seed, rng: random.Random) -> tuple[str, bytes]:
    """The mutation's name and the bytes that it made."""
    mutation = rng.choices(list(MUTATIONS), list(MUTATIONS.values()))[0]
    return mutation.__name__, mutation(seed, rng)


def mutated(count: int) -> Iterator[tuple[str, bytes]]:
    """So many mutations of two small files, the same ones every time."""
    seeds = [Seed.parse(packed(channels)) for channels in (4, 36)]
    for index in range(count):
        rng = random.Random(index)
        yield mutate(rng.choice(seeds), rng)
