"""Strict JSON <-> dataclasses: every key present, none unknown, every value of exactly the annotated type.

The annotations of `schema` are the grammar, so that the schema is written once. Limits on values are `validate`'s part.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bcdnet.errors import ProgramError
from bcdnet.program.schema import FORMAT, OPS, Op, Program


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
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
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
    types_by_key = {name: hint for name, hint in _fields(Program).items() if name != "tensors"}
    return Program(**_object(rest, types_by_key, ""), tensors=tensors)


def to_json(program: Program) -> dict[str, Any]:
    """Program -> plain JSON values, with the tensors left out; the inverse of `from_json`."""
    shallow = {f.name: getattr(program, f.name) for f in dataclasses.fields(program) if f.name != "tensors"}
    return {"format": FORMAT} | {key: _plain(value) for key, value in shallow.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


@cache
def _fields(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _object(value: Any, hints: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProgramError(f"{where}: expected an object, got {_show(value)}")
    inside = f"{where}: " if where else ""
    for key in value:
        if key not in hints:
            raise ProgramError(f"{inside}unknown key {_show(key)}")
    for key in hints:
        if key not in value:
            raise ProgramError(f"{inside}missing key {key!r}")
    prefix = f"{where}." if where else ""
    return {key: _value(value[key], hint, prefix + key) for key, hint in hints.items()}


def _op(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ProgramError(f"{where}: expected an object, got {_show(value)}")
    kind = value.get("type")
    cls: Any = OPS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ProgramError(f"{where}: unknown op type {_show(kind)}; known: {', '.join(OPS)}")
    if isinstance(value.get("name"), str):
        where = f"{where} {_show(value['name'])}"
    return cls(**_object(value, _fields(cls), where))


def _value(value: Any, hint: Any, where: str) -> Any:
    """One value of the annotated type, or a ProgramError that names the place."""
    hint = getattr(hint, "__supertype__", hint)
    if hint == Op:
        return _op(value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint(**_object(value, _fields(hint), where))
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (arm for arm in get_args(hint) if arm is not type(None))
        return None if value is None else _value(value, inner, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise ProgramError(f"{where}: expected one of {', '.join(get_args(hint))}, got {_show(value)}")
        return value
    if origin is tuple:
        return _tuple(value, get_args(hint), where)
    if origin is dict:
        return _free(value, where)
    if hint is float and type(value) is int and abs(value) <= 2**53:
        value = float(value)
    # bool is a subclass of int in Python, so that isinstance would let `true` pass as a size.
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ProgramError(f"{where}: expected {_NAMES[hint]}, got {_show(value)}")
    return value


_NAMES = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string"}


def _tuple(value: Any, arms: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ProgramError(f"{where}: expected a list, got {_show(value)}")
    if arms[-1] is Ellipsis:
        arms = (arms[0],) * len(value)
    if len(arms) != len(value):
        raise ProgramError(f"{where}: expected {len(arms)} elements, got {len(value)}")
    if where == "ops":
        return tuple(_value(item, arm, f"op {i}") for i, (item, arm) in enumerate(zip(value, arms, strict=True)))
    return tuple(_value(item, arm, f"{where}[{i}]") for i, (item, arm) in enumerate(zip(value, arms, strict=True)))


def _free(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProgramError(f"{where}: expected an object, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    """A short ASCII rendering for messages, whatever a hostile file holds."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
