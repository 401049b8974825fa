"""Plain mappings (YAML, JSON, `key=value` words) to frozen, validated dataclasses and back.

A leaf: the types of a dataclass's fields are the schema. Unknown keys and wrong types are `RecipeError`s that name the
full dotted key and, for an unknown one, the nearest that exists. Ranges are the business of each `__post_init__`.

A field with `metadata={"rest": True}` (a `dict[str, Any]`) receives the keys that no other field claims.
"""

import dataclasses
import datetime
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from bcdnet.errors import RecipeError, printable

T = TypeVar("T")


def from_dict(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from `mapping`; nested dataclasses from nested mappings.

    `where` is the dotted prefix that errors show (`"data"` gives `data.path`). Fields that `mapping` lacks keep their
    defaults. Raises RecipeError: an unknown or missing key, a wrong type, or what `__post_init__` refuses.
    """
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{where or cls.__name__}: expected a mapping of keys, got {_shown(mapping)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    rest = next((name for name, field in fields.items() if field.metadata.get("rest")), None)
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in mapping.items():
        if key in fields and key != rest:
            values[key] = convert(hints[key], value, _join(where, key))
        elif rest is not None and isinstance(key, str):
            extra[key] = value
        else:
            raise RecipeError(unknown_key(str(key), fields, where))
    if rest is not None:
        values[rest] = extra
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not has_default:
            raise RecipeError(f"{_join(where, name)}: required, but not given")
    try:
        return cls(**values)
    except RecipeError as error:
        # `image_size: must be …` from a `__post_init__` becomes `data.image_size: must be …`.
        about_field = str(error).split(":")[0].split(".")[0].split(" ")[0] in fields
        raise RecipeError(_join(where, str(error)) if about_field or not where else f"{where}: {error}") from None


def to_dict(value: Any) -> Any:
    """The inverse of `from_dict`: dataclasses to dicts, tuples to lists, so that YAML and JSON can hold the result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = to_dict(getattr(value, field.name))
            if field.metadata.get("rest"):
                result.update(item)
            elif field.init:
                result[field.name] = item
        return result
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    return value


def apply_overrides(mapping: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """A copy of `mapping` with `words` such as `data.path=DIR` or `steps.0.lr=1e-3` applied, left to right.

    Values are read as YAML (so `true`, `null`, `[1, 2]` mean what they do in a recipe), but text that is not quoted is
    all taken, ` #` included. A number indexes a list.
    Raises RecipeError for a word without `=`, or a path through something that is neither a mapping nor a list.
    """
    result: dict[str, Any] = _copied(mapping)
    for word in words:
        path, equals, text = word.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise RecipeError(f"override {word!r}: expected key=value, as in data.path=DIR")
        target: Any = result
        for depth, key in enumerate(keys[:-1]):
            target = _step_into(target, key, ".".join(keys[: depth + 1]))
        if isinstance(target, list):
            target[_index(target, keys[-1], path)] = _read_value(text)
        elif isinstance(target, dict):
            target[keys[-1]] = _read_value(text)
        else:
            raise RecipeError(f"override {word!r}: {'.'.join(keys[:-1])} is {_shown(target)}, which has no keys")
    return result


def _read_value(text: str) -> Any:
    from bcdnet.yaml_text import read_yaml  # here, so that those who only build configurations need not have PyYAML

    try:
        value = read_yaml(text)
    except ValueError:
        if any("\udc80" <= character <= "\udcff" for character in text):  # how Python holds bytes of an argument
            raise RecipeError(f"{printable(text)}: is not UTF-8, as recipes are; give it another name") from None
        raise RecipeError(f"cannot read the value {text!r}; quote it if it is a string") from None
    # Nobody means a comment here, nor a date.
    text = text.strip()
    plain = text.startswith("#") or (isinstance(value, (str, datetime.date)) and text[0] not in "'\"!&|>")
    return text if plain else value


def unknown_key(key: str, known: Iterable[str], where: str = "") -> str:
    """The error text for a key that does not exist, naming the nearest one that does."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"{_join(where, key)}: unknown key; {hint}"


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` of a field or parameter; if it is of another, RecipeError that begins with `where`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        return _convert_literal(arguments, value, where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is list:
        return list(_convert_tuple((arguments[0], ...), value, where))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(where, "a mapping of keys", value)
        item = arguments[1] if arguments else Any
        return {str(key): convert(item, entry, _join(where, str(key))) for key, entry in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where)  # type: ignore[arg-type]
    return _convert_plain(hint, value, where)


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is type(None) and value is None:
        return None
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (int, float) and not isinstance(value, bool):
        number = _float(value)
        if number is not None and hint is float:
            return number
        if number is not None and number.is_integer() and not isinstance(value, str):
            return int(value)
    if hint is str and isinstance(value, str):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
    raise _wrong_type(where, names.get(hint, str(hint)), value)


def _float(value: Any) -> float | None:
    # YAML 1.1 reads `1e-3` (no dot) as a string.
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    candidates = [hint for hint in arguments if hint is not type(None)]
    if len(candidates) == 1:
        return convert(candidates[0], value, where)
    # Exact types first, so that `int | float` keeps 1 an int and `str | int` does not refuse 3.
    candidates.sort(key=lambda hint: type(value) is not hint)
    errors = []
    for hint in candidates:
        try:
            return convert(hint, value, where)
        except RecipeError as error:
            errors.append(str(error))
    raise RecipeError(" or ".join(dict.fromkeys(errors)))


def _convert_literal(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in arguments:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
        # `precision: 32` in YAML is a number where the choice is the string "32".
        if isinstance(choice, str) and isinstance(value, int) and str(value) == choice:
            return choice
    names = [choice for choice in arguments if isinstance(choice, str)]  # numbers are not misspelt
    close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise RecipeError(f"{where}: must be one of {', '.join(map(repr, arguments))}, got {value!r}{hint}")


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong_type(where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(arguments[0], item, f"{where}.{index}") for index, item in enumerate(value))
    if len(arguments) != len(value):
        raise RecipeError(f"{where}: expected {len(arguments)} values, got {len(value)}")
    return tuple(
        convert(hint, item, f"{where}.{index}") for index, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _step_into(target: Any, key: str, path: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, path)]
    if not isinstance(target, dict):
        raise RecipeError(f"override {path}: {_shown(target)} has no keys")
    if target.get(key) is None:
        target[key] = {}
    return target[key]


def _index(target: list[Any], key: str, path: str) -> int:
    if key.isdecimal() and int(key) < len(target):
        return int(key)
    names = [item.get("name") for item in target if isinstance(item, dict)]
    if key in names:
        return names.index(key)
    choices = ", ".join(str(name) for name in names if name) or (f"0..{len(target) - 1}" if target else "it is empty")
    raise RecipeError(f"override {path}: no entry {key!r} in the list ({choices})")


def _copied(value: Any) -> Any:
    # Not deepcopy: of what a YAML anchor and its aliases share, an override changes one alone.
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _wrong_type(where: str, expected: str, value: Any) -> RecipeError:
    is_number = expected == "a string" and isinstance(value, (int, float))  # as YAML takes a folder called 2024
    remedy = """; quote it, in a shell twice: '"…"'""" if is_number else ""
    return RecipeError(f"{where}: expected {expected}, got {_shown(value)}{remedy}")
