"""Networks that others trained, as networks of ours; and ours in others' formats.

`from_reference` is imported when it is first used: it needs torch, and writing ONNX does not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bcdnet.interop.reference import from_reference

__all__ = ["from_reference"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bcdnet.interop import reference

    return getattr(reference, name)
