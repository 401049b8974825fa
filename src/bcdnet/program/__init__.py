"""The packed file (.bcdn): schema, strict reader, writer and a plain numpy executor. numpy and safetensors only."""

from bcdnet.program.decode import to_json
from bcdnet.program.file import read_program, write_program
from bcdnet.program.reference import execute
from bcdnet.program.schema import Program
from bcdnet.program.validate import validate

__all__ = ["Program", "execute", "read_program", "to_json", "validate", "write_program"]
