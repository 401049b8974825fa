"""Recipes as YAML files: read with overrides, written back in full."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from bcdnet.config import apply_overrides, from_dict, to_dict, unknown_key
from bcdnet.errors import RecipeError
from bcdnet.training.recipe import TEACHER, Recipe
from bcdnet.yaml_text import read_yaml

LENGTHS = ("epochs", "iterations")


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, apply `key=value` words and resolve it: every key has its value, every step its augmentation.

    `epochs` or `iterations` at the top (the file's or a word's) replaces the length of every step and of a teacher's
    training. Raises RecipeError for a file that is missing or not YAML, and for what `from_dict` refuses.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = f"; give {path / 'recipe.yaml'}" if (path / "recipe.yaml").is_file() else ""
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}{hint}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not a recipe, which is YAML in UTF-8") from None
    try:
        mapping = read_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    if mapping is None:
        raise RecipeError(f"{path}: the recipe is empty")
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, got {type(mapping).__name__}")
    return resolve(apply_overrides({"name": path.stem, **mapping}, overrides))


def resolve(mapping: dict[str, Any]) -> Recipe:
    """The recipe that a (nested, plain) mapping says; see `load_recipe`."""
    mapping = dict(mapping)
    known = [*(entry.name for entry in fields(Recipe)), *LENGTHS]
    if unknown := [key for key in mapping if key not in known]:
        raise RecipeError(unknown_key(str(unknown[0]), known))
    lengths = {key: value for key in LENGTHS if (value := mapping.pop(key, None)) is not None}
    if len(lengths) == 2:
        raise RecipeError("epochs: give one of epochs and iterations at the top of a recipe, not both")
    steps = mapping.get("steps")
    if isinstance(steps, list):
        mapping["steps"] = [_resolve_step(step, lengths, mapping.get("augment")) for step in steps]
    teacher = mapping.get("teacher")
    if isinstance(teacher, Mapping) and teacher.get("train") is not None:
        train = {"name": TEACHER, **teacher["train"]} if isinstance(teacher["train"], Mapping) else teacher["train"]
        mapping["teacher"] = {**teacher, "train": _resolve_step(train, lengths, mapping.get("augment"))}
    return from_dict(Recipe, mapping)


def _resolve_step(step: Any, lengths: dict[str, Any], augment: Any) -> Any:
    if not isinstance(step, Mapping):
        return step
    resolved = dict(step)
    if lengths:
        resolved = {key: value for key, value in resolved.items() if key not in LENGTHS} | lengths
    own = resolved.get("augment")
    if isinstance(augment, Mapping) and (own is None or isinstance(own, Mapping)):
        resolved["augment"] = {**augment, **(own or {})}
    return resolved


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe; `load_recipe` of it gives an equal one, and a change to its `augment` one of every step."""
    mapping = to_dict(recipe)
    teacher = mapping["teacher"] or {}
    for step in filter(None, (*mapping["steps"], teacher.get("train"))):
        step["augment"] = {key: value for key, value in step["augment"].items() if value != mapping["augment"][key]}
    return as_yaml(mapping)


def as_yaml(mapping: Any) -> str:
    """Plain values in the form of a run's `recipe.yaml`."""
    text: str = yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=120)
    return text


def differences(old: Recipe, new: Recipe, ignore: Iterable[str] = ()) -> list[str]:
    """Dotted keys whose values differ, but for those below the prefixes in `ignore`."""
    found = list(_differing(to_dict(old), to_dict(new), ""))
    return [key for key in found if not any(key == prefix or key.startswith(prefix + ".") for prefix in ignore)]


def _differing(old: Any, new: Any, where: str) -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys(), key=str):
            yield from _differing(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differing(before, after, f"{where}.{index}")
    elif old != new:
        yield where
