"""A small valid program with every type of op, and how to write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from every_op import Document, build
from safetensors.numpy import save_file


@pytest.fixture
def document() -> Document:
    """(JSON document, tensors)."""
    return build()


@pytest.fixture
def build_document() -> Callable[..., Document]:
    """The function that makes them, for other widths and seeds."""
    return build


@pytest.fixture
def save() -> Callable[[Path, Any, dict[str, Any]], Path]:
    """Write any document, valid or not, around the writer."""

    def write(path: Path, document: Any, tensors: dict[str, Any]) -> Path:
        text = document if isinstance(document, str) else json.dumps(document)
        save_file(tensors, path, metadata={"bcdnet_program": text})
        return path

    return write
