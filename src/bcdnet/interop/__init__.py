"""Networks that others trained, as networks of ours."""

from bcdnet.interop.reference import from_reference

__all__ = ["from_reference"]
