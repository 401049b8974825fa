"""The functions of bcdnet.h as Python calls them."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "open": (c_void_p, [c_char_p, c_int]),
    "read": (c_void_p, [c_char_p, c_size_t, c_int]),
    "close": (None, [c_void_p]),
    "error": (c_char_p, []),
    "version": (c_char_p, []),
    "target": (c_char_p, [c_void_p]),
    "input_size": (None, [c_void_p, POINTER(c_int), POINTER(c_int), POINTER(c_int)]),
    "output_count": (c_int, [c_void_p]),
    "output_name": (c_char_p, [c_void_p, c_int]),
    "output_size": (c_int, [c_void_p, c_int]),
    "label": (c_char_p, [c_void_p, c_int]),
    "prepare": (c_int, [c_void_p, c_void_p, c_int, c_int, c_int, c_size_t, c_void_p]),
    "run": (c_int, [c_void_p, c_void_p, c_size_t, POINTER(c_void_p)]),
    "classify": (c_int, [c_void_p, c_void_p, c_int, c_int, c_int, c_size_t, c_void_p]),
}


class LibraryError(Exception):
    """What bcdnet_error() says."""


class Library:
    """The functions of bcdnet.h without their prefix."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, f"bcdnet_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def model(self, source: Path | bytes, threads: int = 1) -> Model:
        """Raises LibraryError."""
        if isinstance(source, bytes):
            handle = self.read(source, len(source), threads)
        else:
            handle = self.open(os.fsencode(source), threads)
        if handle is None:
            raise LibraryError(self.error().decode())
        return Model(self, handle)


class Model:
    """A bcdnet_model*."""

    def __init__(self, library: Library, handle: int) -> None:
        self.library, self.handle = library, handle

    def __del__(self) -> None:
        self.library.close(self.handle)

    def check(self, status: int) -> None:
        if status != 0:
            raise LibraryError(self.library.error().decode())

    @property
    def input_size(self) -> tuple[int, int, int]:
        sizes = c_int(), c_int(), c_int()
        self.library.input_size(self.handle, *map(byref, sizes))
        return sizes[0].value, sizes[1].value, sizes[2].value

    @property
    def outputs(self) -> list[tuple[str, int]]:
        count = self.library.output_count(self.handle)
        return [
            (self.library.output_name(self.handle, i).decode(), self.library.output_size(self.handle, i))
            for i in range(count)
        ]

    def prepare(self, pixels: Any, stride: int = 0) -> Any:
        """uint8 [H, W, channels] -> float32 [C, H, W]."""
        image = np.full(self.input_size, np.nan, np.float32)
        height, width, channels = pixels.shape
        self.check(
            self.library.prepare(self.handle, pixels.ctypes.data, width, height, channels, stride, image.ctypes.data)
        )
        return image

    def run(self, images: Any) -> list[Any]:
        """float32 [N, C, H, W] -> [N, size] for each output."""
        outputs = [np.full((len(images), size), np.nan, np.float32) for _, size in self.outputs]
        pointers = (c_void_p * len(outputs))(*(output.ctypes.data for output in outputs))
        self.check(self.library.run(self.handle, images.ctypes.data, len(images), pointers))
        return outputs

    def classify(self, pixels: Any) -> Any:
        """uint8 [H, W, channels] -> float32 [classes]."""
        probabilities = np.full(self.outputs[0][1], np.nan, np.float32)
        height, width, channels = pixels.shape
        self.check(
            self.library.classify(
                self.handle, pixels.ctypes.data, width, height, channels, 0, probabilities.ctypes.data
            )
        )
        return probabilities
