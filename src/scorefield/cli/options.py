"""What options mean: durations, COL=VALUE pairs, lists of columns."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from scorefield.errors import OptionError

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Seconds from "90", "90s", "5min" or "2h".

    Raises:
        OptionError: for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in _UNITS or float(found[1]) <= 0:
        raise OptionError(f"--budget {text}: expected a duration such as 90s, 5min or 2h")
    return float(found[1]) * _UNITS[found[2]]


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """COL=VALUE texts as a dictionary.

    Raises:
        OptionError: without "=", or for a column given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionError(f"{option} {text}: expected COL=VALUE")
        if name in values:
            raise OptionError(f"{option}: {name!r} is given twice")
        values[name] = value
    return values


def column_types(texts: Sequence[str], schema: Path | None) -> dict[str, str]:
    """Types of columns, from a schema file and from COL=TYPE texts, which go before it.

    Raises:
        OptionError: for a file that is no schema, texts without "=", and a column given twice.
    """
    return (_schema(schema) if schema is not None else {}) | pairs(texts, "--column-type")


def _schema(path: Path) -> dict[str, str]:
    """The lines COL = "TYPE" of a TOML file."""
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"--schema {path}: cannot be read as TOML: {error}") from error
    for name, kind in fields.items():
        if not isinstance(kind, str):
            raise OptionError(
                f'--schema {path}: {name} = {kind!r}, expected a type in quotes, such as {name} = "number"'
            )
    return fields


def names(text: str | None) -> list[str] | None:
    """Column names from "a,b,c"; None stays None.

    Raises:
        OptionError: for an empty name or one given twice.
    """
    if text is None:
        return None
    found = [name.strip() for name in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise OptionError(f"--columns {text}: expected different names with commas between them")
    return found
