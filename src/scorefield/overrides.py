"""Recipes as text: from files and `path=value` settings, typed or refused with the closest right name, and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from scorefield.data.schema import suggestion
from scorefield.errors import OptionError
from scorefield.recipes import PRESETS, Recipe, plain


def recipe_of(name: str) -> Recipe:
    """A preset by name, or a recipe from a .toml file.

    Raises:
        OptionError: for an unknown name, a file that cannot be read, and fields that are wrong.
    """
    if name.endswith(".toml"):
        return _from_toml(Path(name))
    if name not in PRESETS:
        raise OptionError(
            f"recipe {name[:80]}: no such recipe{suggestion(name, list(PRESETS))}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]()


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """A recipe with fields set, each as "training.batch=256".

    Raises:
        OptionError: for an unknown path, a value of the wrong type, and a path set twice.
    """
    values = plain(recipe)
    seen: set[str] = set()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting}: expected path=value, such as training.batch=256")
        if path in seen:
            raise OptionError(f"--set {path} is given twice")
        seen.add(path)
        part, names = values, path.split(".")
        for depth, name in enumerate(names):
            if not isinstance(part, dict) or name not in part:
                known = list(part) if isinstance(part, dict) else []
                place = ".".join(names[:depth]) or "the recipe"
                raise OptionError(
                    f"--set {path}: {place} has no field {name!r}{suggestion(name, known)}; it has {known}"
                )
            if depth < len(names) - 1:
                part = part[name]
        if isinstance(part[names[-1]], dict):
            raise OptionError(f"--set {path}: that is a group; its fields are {list(part[names[-1]])}")
        part[names[-1]] = _value(text)
    return _validated(values, "--set")


def as_toml(recipe: Recipe) -> str:
    """A recipe as a file that `recipe_of` reads, each field with its meaning; those left open are commented out."""
    lines = [f"name = {json.dumps(recipe.name, ensure_ascii=False)}"]
    for group, part in recipe:
        if not isinstance(part, BaseModel):
            continue
        lines += ["", f"[{group}]"]
        for name, field in type(part).model_fields.items():
            value = part.model_dump(mode="json")[name]
            text = f"# {name} =" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
            lines.append(f"{text:<40}  # {_meaning(field, is_open=value is None)}")
    return "\n".join(lines) + "\n"


def _meaning(field: FieldInfo, is_open: bool) -> str:
    text = field.description or ""
    choices = [str(choice) for kind in (field.annotation, *get_args(field.annotation)) for choice in _literals(kind)]
    text += f"{': ' if text else ''}{', '.join(choices)}" if choices else ""
    return text + (" (left open)" if is_open else "")


def _literals(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _value(text: str) -> Any:
    """Numbers, true, false, null and lists as JSON has them, else text; a,b,c is a list too, and 1e4 a whole number."""
    try:
        return json.loads(text, parse_float=_number)
    except ValueError:
        return [_value(part) for part in text.split(",")] if "," in text else text


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _from_toml(path: Path) -> Recipe:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"recipe {str(path)[:200]}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"recipe {path}: {error}") from error
    return _validated(values, f"recipe {path}")


def _validated(values: dict[str, Any], where: str) -> Recipe:
    try:
        # Strict: a number in quotes is a mistake, and so is `true` for a number. A date of TOML is text in JSON.
        return Recipe.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"]
        # The third part is the entry of a list, or which of its types a field was tried as.
        place = loc[:3] if isinstance(loc[-1], int) else loc[:2]
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = suggestion(str(place[-1]), _fields(place[:-1]))
        wrong = dict.fromkeys(each["msg"] for each in error.errors() if each["loc"][: len(place)] == place)
        path = ".".join(str(part) for part in place)
        raise OptionError(f"{where}: {path}: {', or '.join(wrong)}, got {first['input']!r}{hint}") from error


def _fields(path: tuple[int | str, ...]) -> list[str]:
    part: Any = plain(Recipe())
    for name in path:
        part = part.get(name, {}) if isinstance(part, dict) else {}
    return list(part) if isinstance(part, dict) else []
