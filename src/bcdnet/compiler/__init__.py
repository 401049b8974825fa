"""The only door between torch and the packed file: trace -> lower -> fuse -> plan -> write."""

from bcdnet.compiler.export import compile_module, export

__all__ = ["compile_module", "export"]
