"""The compiled core, or one clear error where it is not built."""

from __future__ import annotations

from types import ModuleType

from bcdnet.errors import BcdnetError


def core() -> ModuleType:
    """The module `bcdnet.runtime._core`. Raises BcdnetError with the remedy where it cannot be imported."""
    try:
        from bcdnet.runtime import _core
    except ImportError as error:
        raise BcdnetError(
            f"the native core cannot be loaded ({error}); build it with `pip install .` in the source tree, "
            "which needs a C++20 compiler and Highway"
        ) from None
    module: ModuleType = _core
    return module
