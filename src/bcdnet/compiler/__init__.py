"""The only door between torch and the packed file: trace -> lower -> fuse -> plan -> write, and back: unpack."""

from bcdnet.compiler.export import compile_module, export
from bcdnet.compiler.unpack import load_trained, unpack

__all__ = ["compile_module", "export", "load_trained", "unpack"]
