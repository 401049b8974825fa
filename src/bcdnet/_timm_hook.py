"""Registers our models with timm, whichever of the two is imported first, without importing timm or torch ourselves.

`timm.create_model("bcdnet_b")` finds a model only after the module that defines it has been imported, and that module
needs torch. So registration waits until the user imports timm: if it is already there, our models are imported at
once; if not, a finder at the front of `sys.meta_path` lets timm's own loader run and imports our models right after.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    # At run time importlib.abc would bring importlib.resources, tempfile and more: a fifth of what bcdnet itself takes.
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def _register() -> None:
    """Import the modules whose import registers models."""
    importlib.import_module("bcdnet._timm_networks")
    importlib.import_module("bcdnet._timm_shipped")


class _ThenRegister:
    """Runs timm's own loader, then registers the models."""

    def __init__(self, original: Loader) -> None:
        self._original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on timm looks as if it had been imported without us: importlib.resources and inspect ask the loader.
        module.__loader__ = self._original
        if module.__spec__ is not None:
            module.__spec__.loader = self._original
        self._original.exec_module(module)
        _register()


class _TimmFinder:
    """Finds the top-level package `timm` by asking the other finders; every other module is none of its business."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _ThenRegister(spec.loader))
        return spec


def install() -> None:
    """Register our models with timm now if it is imported, otherwise as soon as it is. Never imports timm itself."""
    if sys.modules.get("timm") is not None:
        _register()
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())
