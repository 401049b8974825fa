"""Strict JSON <-> dataclasses: every key present, none unknown, every value of exactly the annotated type.

The annotations of `schema` are the grammar, so that the schema is written once. Limits on values are `validate`'s part.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bcdnet.errors import ProgramError
from bcdnet.program.schema import FORMAT, OPS, Epilogue, Op, Program

Reader = Callable[[Any], Any]


def parse(text: str) -> Any:
    """JSON text to plain values; duplicate keys, NaN, Infinity and nesting beyond Python's stack are ProgramErrors."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ProgramError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"the program is not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ProgramError(f"the program has the key {twice!r} twice in one object")
    return result


def _refuse_constant(name: str) -> None:
    raise ProgramError(f"the program holds {name}; numbers must be finite")


def from_json(document: Any, tensors: dict[str, Any]) -> Program:
    """Plain JSON values -> Program (not yet validated). Raises ProgramError naming the place."""
    if not isinstance(document, dict):
        raise ProgramError("the program is not a JSON object")
    version = document.get("format")
    if type(version) is not int or version < 1:
        raise ProgramError(f"format: expected a positive integer, got {_show(version)}")
    if version > FORMAT:
        raise ProgramError(f"the file has format {version}, newer than this bcdnet reads ({FORMAT}): upgrade bcdnet")
    rest = {key: value for key, value in document.items() if key != "format"}
    try:
        return Program(**_object(rest, _readers(Program, version)), tensors=tensors)
    except ProgramError as error:
        raise ProgramError(_OP.sub(r"op \1", str(error).lstrip(".: "))) from None


# An op's place is told as `validate` tells it: "op 3 'stem'".
_OP = re.compile(r"^ops\[(\d+)\]")


def to_json(program: Program) -> dict[str, Any]:
    """Program -> plain JSON values, with the tensors left out; the inverse of `from_json`.

    In the lowest format that holds it, so that the oldest readers read it.
    """
    version = 1 if all(getattr(op, "epilogue", Epilogue()).gain is None for op in program.ops) else FORMAT
    return {"format": version} | {key: _plain(getattr(program, key), version) for key in _readers(Program, version)}


def _plain(value: Any, version: int) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item, version) for item in value]
    cls: Any = type(value)
    if keys := _keys(cls, version):
        return {key: _plain(getattr(value, key), version) for key in keys}
    return value


@cache
def _keys(cls: Any, version: int) -> tuple[str, ...]:
    return tuple(_fields(cls, version)) if hasattr(cls, "__dataclass_fields__") else ()


@cache
def _fields(cls: Any, version: int) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.metadata.get("since", 1) <= version}


@cache
def _readers(cls: Any, version: int) -> dict[str, Reader]:
    """Every key of the dataclass in that format and what reads it; the tensors are no part of the JSON."""
    fields = _fields(cls, version)
    return {key: _reader(hint, version) for key, hint in fields.items() if cls is not Program or key != "tensors"}


def _object(value: Any, readers: dict[str, Reader]) -> dict[str, Any]:
    if type(value) is not dict:
        raise ProgramError(f": expected an object, got {_show(value)}")
    if value.keys() != readers.keys():
        for key in value:
            if key not in readers:
                raise ProgramError(f": unknown key {_show(key)}")
        raise ProgramError(f": missing key {next(key for key in readers if key not in value)!r}")
    result = {}
    key = ""
    try:
        for key, read in readers.items():
            result[key] = read(value[key])
    except ProgramError as error:
        raise ProgramError(f".{key}{error}") from None
    return result


def _op(value: Any, version: int) -> Any:
    if type(value) is not dict:
        raise ProgramError(f": expected an object, got {_show(value)}")
    kind = value.get("type")
    cls: Any = OPS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ProgramError(f": unknown op type {_show(kind)}; known: {', '.join(OPS)}")
    try:
        return cls(**_object(value, _readers(cls, version)))
    except ProgramError as error:
        name = f" {_show(value['name'])}" if isinstance(value.get("name"), str) else ""
        raise ProgramError(f"{name}{error}") from None


@cache
def _reader(hint: Any, version: int) -> Reader:
    """What turns a JSON value into one of the annotated type.

    It raises ProgramError with ": " and the reason; whoever holds the value puts its place in front.
    """
    hint = getattr(hint, "__supertype__", hint)
    if hint == Op:
        return partial(_op, version=version)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        cls, readers = hint, _readers(hint, version)
        return lambda value: cls(**_object(value, readers))
    origin, arms = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (_reader(arm, version) for arm in arms if arm is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return _one_of(arms)
    if origin is tuple:
        return _tuple(arms, version)
    if origin is dict:
        return _free
    return _float if hint is float else _exactly(hint)


def _one_of(choices: tuple[str, ...]) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not str or value not in choices:
            raise ProgramError(f": expected one of {', '.join(choices)}, got {_show(value)}")
        return value

    return read


def _exactly(kind: type) -> Reader:
    def read(value: Any) -> Any:
        # bool is a subclass of int in Python, so that isinstance would let `true` pass as a size.
        if type(value) is not kind:
            raise ProgramError(f": expected {_NAMES[kind]}, got {_show(value)}")
        return value

    return read


_NAMES = {int: "an integer", bool: "true or false", str: "a string"}


def _float(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise ProgramError(f": expected a finite number, got {_show(value)}")
    return float(value)


def _tuple(arms: tuple[Any, ...], version: int) -> Reader:
    """Either any number of elements of one type (its arms end with an ellipsis) or one element per arm."""
    read_item = _reader(arms[0], version)
    length = None if arms[-1] is Ellipsis else len(arms)

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise ProgramError(f": expected a list, got {_show(value)}")
        if length is not None and length != len(value):
            raise ProgramError(f": expected {length} elements, got {len(value)}")
        result = []
        try:
            for item in value:
                result.append(read_item(item))  # noqa: PERF401 (its length is the index of the item that fails)
        except ProgramError as error:
            raise ProgramError(f"[{len(result)}]{error}") from None
        return tuple(result)

    return read


def _free(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ProgramError(f": expected an object, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    """A short ASCII rendering for messages, whatever a hostile file holds."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
