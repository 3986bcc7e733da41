"""Ranges and choices of values: what a cell may be where it is not known exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scorefield.data.schema import suggestion
from scorefield.errors import OptionError

_SIGNED = re.compile(r"\s*(?P<sign><=|>=|!=|=|<|>)(?P<value>.*)", re.DOTALL)
_FORM = re.compile(r"\s*(?P<name>.+?)" + _SIGNED.pattern, re.DOTALL)


@dataclass(frozen=True)
class Between:
    """Numbers, or names in an order, from one to another.

    Args:
        low, high: the ends, None for none; names of an ordered column, or numbers.
        above, below: whether the ends themselves are outside.
    """

    low: Any = None
    high: Any = None
    above: bool = False
    below: bool = False

    def and_(self, other: Between) -> Between:
        """Both, where they are about different ends.

        Raises:
            OptionError: where both have the same end.
        """
        for end in ("low", "high"):
            if getattr(self, end) is not None and getattr(other, end) is not None:
                raise OptionError(f"--given: two ends of one kind, {getattr(self, end)} and {getattr(other, end)}")
        low, above = (self.low, self.above) if self.low is not None else (other.low, other.above)
        high, below = (self.high, self.below) if self.high is not None else (other.high, other.below)
        return Between(low, high, above, below)

    def holds(self, value: float, low: float | None = None, high: float | None = None) -> bool:
        """Whether a number lies within the ends, or within others that stand for them."""
        low = low if low is not None else -math.inf if self.low is None else float(self.low)
        high = high if high is not None else math.inf if self.high is None else float(self.high)
        return (value > low if self.above else value >= low) and (value < high if self.below else value <= high)


@dataclass(frozen=True)
class Among:
    """Any of some values, or any other than these.

    Args:
        values: as text or as they are.
        other: whether the others are meant.
    """

    values: tuple[Any, ...]
    other: bool = False


def in_numbers(wish: Between, name: str) -> Between:
    """The ends as numbers.

    Args:
        wish: its ends may be text.
        name: of the column, for messages.

    Raises:
        OptionError: for ends that are no numbers.
    """
    try:
        ends = [None if end is None else float(end) for end in (wish.low, wish.high)]
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"--given {name}: a range of numbers has numbers as its ends: {error}") from error
    if any(end is not None and math.isnan(end) for end in ends):
        raise OptionError(f"--given {name}: a range has no end that is not a number")
    return Between(ends[0], ends[1], wish.above, wish.below)


def settled(wish: Any, names: Sequence[Any]) -> Any:
    """What is meant by a text, or by several, in a column of these names: one of them, or else without outer spaces.

    So is a choice A|B, where there is a name "A|B".
    """
    if isinstance(wish, str):
        return wish if wish in names else wish.strip()
    if not isinstance(wish, Among):
        return wish
    text = "|".join(str(value) for value in wish.values)
    if not wish.other and len(wish.values) > 1 and text in names:
        return text
    return replace(wish, values=tuple(settled(value, names) for value in wish.values))


def allowed(wish: Between | Among, names: Sequence[Any], column: str, listed: str) -> list[bool]:
    """Which of a column's names are meant.

    Args:
        wish: a choice of names, or a range where these are numbers.
        names: all that there are.
        column: its name, and `listed`, the names in words, for messages.

    Raises:
        OptionError: for a name that is none of them, a range where they have no order, and where none is meant.
    """
    if isinstance(wish, Among):
        for value in wish.values:
            if value not in names:
                raise OptionError(
                    f"--given {column}: was never {value!r} in training, known are {listed}"
                    f"{suggestion(str(value), [str(name) for name in names])}"
                )
        meant = [(name in wish.values) != wish.other for name in names]
    elif any(isinstance(name, str) for name in names):
        raise OptionError(f"--given {column}: its values are names without an order, known are {listed}")
    else:
        ends = in_numbers(wish, column)
        meant = [ends.holds(float(name)) for name in names]
    if not any(meant):
        raise OptionError(f"--given {column}: none of its values is meant, known are {listed}")
    return meant


def wishes(texts: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any]:
    """Values, ranges and choices by column, from texts such as age>60, sex=female, port=S|Q, deck!=A; age= is missing.

    Args:
        texts: one for each column, two for the ends of a range.
        names: of columns, of which the longest that a text begins with is taken, whatever signs are in it.

    Raises:
        OptionError: for a text of another form, and columns given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        begun = [name for name in names if text.startswith(name) and _SIGNED.fullmatch(text, len(name))]
        known = max(begun, key=len, default="")
        match = _SIGNED.fullmatch(text, len(known)) if known else _FORM.fullmatch(text)
        if match is None:
            raise OptionError(f"--given {text}: expected COL=VALUE, COL=A|B, COL!=VALUE, COL>VALUE, COL<=VALUE …")
        name, wish = known or match["name"], _wish(match["sign"], match["value"])
        if name in found:
            if not isinstance(wish, Between) or not isinstance(found[name], Between):
                raise OptionError(f"--given: {name!r} is given twice")
            wish = found[name].and_(wish)
        found[name] = wish
    return found


def _wish(sign: str, value: str) -> Any:
    match sign:
        case ">" | ">=":
            return Between(low=value, above=sign == ">")
        case "<" | "<=":
            return Between(high=value, below=sign == "<")
        case "!=":
            # Without a value: any, but not missing.
            return Among(tuple(value.split("|")) if value.strip() else (), other=True)
        case _:
            return Among(tuple(value.split("|"))) if "|" in value else value
