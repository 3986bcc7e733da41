"""Columns that a model is conditioned on ↔ vectors: categories as one-hot, numbers standardised, gaps with a flag.

Columns are arrays, of which missing cells are masked (`numpy.ma`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.between import Among, Between, allowed, in_numbers, settled
from scorefield.codecs.grids import WHOLE, Grid, grid_of
from scorefield.data.schema import suggestion
from scorefield.errors import DataError, OptionError
from scorefield.randomness import Stream

_MOST_CATEGORIES = 200  # whole numbers with more different values than this are numbers, not names
_KEPT_ROWS = 100_000
_KEPT_NUMBERS = 1 << 24  # in the rows kept, so that many categories do not make a large bundle
_RARE_ROWS = 20  # kept of every category, as far as there are as many
_NEAREST = 0.01  # share of the rows that count as near a given number, at least `_RARE_ROWS`


@dataclass(frozen=True)
class ConditionColumn:
    """One column that the model is conditioned on.

    Args:
        name: of the column.
        categories: its values, or None for a number.
        mean, std: of a number.
        dtype: numpy's name of the type of the values, "str" for text.
        grid: that all numbers lie on, None for continuous ones and for categories.
        gaps: whether cells were missing in training; the last feature says of which rows.
    """

    name: str
    categories: tuple[str | int | bool, ...] | None
    mean: float
    std: float
    dtype: str
    grid: Grid | None = None
    gaps: bool = False

    @staticmethod
    def fit(name: str, column: np.ndarray) -> ConditionColumn:
        """Measure a column (n,) of text, whole numbers, truth values or numbers."""
        missing = _missing(column)
        gaps, values = bool(missing.any()), np.ma.getdata(column)[~missing]
        if not len(values):
            raise DataError(f"condition {name!r} is missing throughout: it tells nothing")
        dtype = "str" if values.dtype.kind in "OUS" else str(values.dtype)
        if values.dtype.kind not in "OUSbiuf":
            raise DataError(f"condition {name!r} holds {dtype}: expected text, whole numbers, truth values or numbers")
        if values.dtype.kind == "f":
            if not np.isfinite(values).all():
                first = int(np.flatnonzero(~np.isfinite(values))[0])
                raise DataError(f"condition {name!r} must be finite, found {values[first]} in data row {first + 1}")
            std = float(values.std(dtype=np.float64))
            if not std > 0 and not gaps:
                raise DataError(f"condition {name!r} is constant ({values[0]:g}): it tells nothing")
            mean = float(values.mean(dtype=np.float64))
            return ConditionColumn(name, None, mean, std or 1.0, dtype, grid_of(values), gaps)
        distinct = np.unique(values.astype(str) if dtype == "str" else values)
        if values.dtype.kind in "iu" and len(distinct) > _MOST_CATEGORIES:
            return ConditionColumn(name, None, float(values.mean()), float(values.std()), dtype, WHOLE, gaps)
        if len(distinct) > max(_MOST_CATEGORIES, len(values) // 10):
            raise DataError(f"condition {name!r} has {len(distinct)} different values in {len(values)} rows")
        if len(distinct) == 1 and not gaps:
            raise DataError(f"condition {name!r} is constant ({distinct[0]}): it tells nothing")
        return ConditionColumn(name, tuple(distinct.tolist()), 0.0, 1.0, dtype, None, gaps)

    @property
    def features(self) -> int:
        """Width of the encoded column."""
        return (1 if self.categories is None else len(self.categories)) + self.gaps

    def encode(self, values: Sequence[Any] | np.ndarray) -> Tensor:
        """(n,) values, masked or None where they are missing, as (n, features) float32.

        Raises:
            OptionError: for a category that was not seen in training, with the known ones, and cells that are missing
                where none was.
        """
        missing = _missing(values)
        if missing.any() and not self.gaps:
            raise OptionError(
                f"condition {self.name!r} has {int(missing.sum())} missing cells, the first in data row "
                f"{int(np.flatnonzero(missing)[0]) + 1}, and had none in training"
            )
        encoded = torch.zeros(len(missing), self.features)
        there = np.ma.getdata(np.asanyarray(values, dtype=None if isinstance(values, np.ndarray) else object))[~missing]
        encoded[torch.from_numpy(~missing), : self.features - self.gaps] = self._encode(there)
        if self.gaps:
            encoded[:, -1] = torch.from_numpy(missing)
        return encoded

    def _encode(self, values: np.ndarray) -> Tensor:
        """Values that are there, without the flag."""
        if self.categories is None:
            try:
                numbers = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise OptionError(f"condition {self.name!r} is a number: {error}") from error
            if not np.isfinite(numbers).all():
                raise OptionError(f"condition {self.name!r} must be finite")
            return torch.from_numpy((numbers - self.mean) / self.std).float().unsqueeze(1)
        # Compared as text, so that "3" on a command line means the label 3.
        codes = {str(category): code for code, category in enumerate(self.categories)}
        unknown = sorted({str(value) for value in values} - codes.keys())
        if unknown:
            raise OptionError(
                f"condition {self.name!r} was never {unknown[0]!r} in training, known are: {self.listed}"
                f"{suggestion(unknown[0], list(codes))}"
            )
        index = torch.tensor([codes[str(value)] for value in values], dtype=torch.long)
        return torch.nn.functional.one_hot(index, len(self.categories)).float()

    @property
    def listed(self) -> str:
        """Its categories in words, the first twenty."""
        known = [str(category) for category in self.categories or ()]
        return ", ".join(known[:20]) + (", …" if len(known) > 20 else "")

    def meant(self, wish: Between | Among, features: Tensor) -> Tensor:
        """Which of some encoded values (m, features) a range or a choice holds, (m,) bool; missing ones never.

        Raises:
            OptionError: for names that were not seen, a range of names, a choice of numbers, and where none is left.
        """
        there = features[:, -1] < 0.5 if self.gaps else torch.ones(len(features), dtype=torch.bool)
        if wish == Among((), other=True):
            return there
        if self.categories is not None:
            names = {str(category): category for category in self.categories}
            if isinstance(wish, Among):  # compared as text, as when encoding
                wish = Among(tuple(names.get(str(value), value) for value in wish.values), wish.other)
            chosen = torch.tensor(allowed(wish, self.categories, self.name, self.listed))
            return there & chosen[features[:, : len(chosen)].argmax(1)]
        if isinstance(wish, Among):
            raise OptionError(f"--given {self.name}: it is a number, and can be given a value or a range")
        ends, values = in_numbers(wish, self.name), np.ma.getdata(self.decode(features))
        found = there & torch.tensor([ends.holds(float(value)) for value in values])
        if not bool(found.any()):
            seen = values[there.numpy()]
            raise OptionError(
                f"--given {self.name}: none of the {len(values)} training rows kept lies in the range, there were "
                f"{seen.min():g} to {seen.max():g}"
            )
        return found

    def unusable(self, values: Sequence[Any] | np.ndarray) -> dict[int, str]:
        """Why values (n,), None where they are missing, cannot be encoded, by row from 0."""
        found: dict[int, str] = {}
        codes = {str(category) for category in self.categories or ()}
        for row, value in enumerate(values):
            if value is None:
                if not self.gaps:
                    found[row] = f"condition {self.name!r} is missing, and never was in training"
            elif self.categories is not None:
                if str(value) not in codes:
                    found[row] = f"condition {self.name!r} was never {str(value)!r} in training"
            elif not _is_finite(value):
                found[row] = f"condition {self.name!r} is {value}, expected a finite number"
        return found

    def first_of_each(self, values: np.ndarray, count: int) -> np.ndarray:
        """The places of the first rows of every category, up to `count` of each; (n,) values of a column of names."""
        data = np.ma.getdata(values)
        _, codes = np.unique(data.astype(str) if self.dtype == "str" else data, return_inverse=True)
        codes[_missing(values)] = -1
        grouped = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[grouped], codes[grouped])
        first: np.ndarray = grouped[np.arange(len(codes)) - starts < count]
        return first

    def decode(self, features: Tensor) -> np.ndarray:
        """(n, features) back to (n,) values of the column's own type, masked where they are missing."""
        if self.categories is None:
            numbers = features[:, 0].double().numpy() * self.std + self.mean
            values = (numbers if self.grid is None else self.grid.snap(numbers)).astype(self.dtype)
        else:
            names = np.array(self.categories, dtype=object if self.dtype == "str" else self.dtype)
            values = names[features[:, : len(names)].argmax(1).numpy()]
        return np.ma.MaskedArray(values, features[:, -1].numpy() > 0.5) if self.gaps else values


def _missing(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Which of (n,) values are missing: masked, or None."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.getmaskarray(values)
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return np.zeros(len(values), dtype=bool)
    return np.array([value is None for value in values], dtype=bool)


def _is_finite(value: Any) -> bool:
    """Whether this is a finite number, or text of one."""
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


@dataclass(frozen=True)
class ConditionCodec:
    """All columns that a model is conditioned on, and rows of them as they occurred together.

    Args:
        columns: one or more.
        seen: encoded rows of the training data, (m, k), from which conditions that are not given are drawn.
        random: how many of them, from the first on, are a random part of the training data. The others were added so
            that every category has some, and are drawn only for a given category that the random part has too few of.
    """

    columns: tuple[ConditionColumn, ...]
    seen: Tensor
    random: int

    @staticmethod
    def fit(values: Mapping[str, np.ndarray], seed: int = 0) -> ConditionCodec:
        """Measure columns by name, each (n,)."""
        columns = tuple(ConditionColumn.fit(name, column) for name, column in values.items())
        codec = ConditionCodec(columns, torch.empty(0), 0)
        rows = len(next(iter(values.values())))
        order = Stream(seed, "conditions kept").permutation(rows)
        random = min(rows, _KEPT_ROWS, max(1000, _KEPT_NUMBERS // codec.features))
        each = min(_RARE_ROWS, max(1, _KEPT_NUMBERS // codec.features**2))
        places = [c.first_of_each(values[c.name][order], each) for c in columns if c.categories is not None]
        first = np.unique(np.concatenate([np.empty(0, np.int64), *places]))
        kept = np.concatenate([order[:random], order[first[first >= random]]])
        return ConditionCodec(columns, codec.encode({name: column[kept] for name, column in values.items()}), random)

    @property
    def features(self) -> int:
        """k, the width of an encoded row."""
        return sum(column.features for column in self.columns)

    def encode(self, values: Mapping[str, Sequence[Any] | np.ndarray]) -> Tensor:
        """Columns by name, each (n,), as (n, k) float32.

        Raises:
            OptionError: when a column is missing or holds an unseen category.
        """
        missing = [column.name for column in self.columns if column.name not in values]
        if missing:
            raise OptionError(f"the model is conditioned on {missing}, which are not there")
        return torch.cat([column.encode(values[column.name]) for column in self.columns], dim=1)

    def draw(self, rows: range, given: Mapping[str, Any], seed: int) -> Tensor:
        """A condition for each row: what is given, and the rest from training rows that agree with it, (n, k).

        Rows agree that lie in the given ranges and choices, have the given categories and, among these, the numbers
        nearest to the given ones. Where no row has all given categories, which a warning says, the rest is drawn from
        all rows within the ranges.

        Args:
            rows: which rows of the request.
            given: by column name a value, None for a missing one, `Between` or `Among`.
            seed: of the draw.

        Raises:
            OptionError: for an unknown name or an unseen category, and ranges that hold no row.
        """
        names = [column.name for column in self.columns]
        for name in given:
            if name not in names:
                raise OptionError(f"the model is not conditioned on {name!r}, only on {names}")
        fixed: dict[int, Tensor] = {}
        within, agree = (torch.ones(len(self.seen), dtype=torch.bool) for _ in range(2))
        distance = torch.zeros(len(self.seen))
        starts = np.cumsum([0, *(column.features for column in self.columns)]).tolist()
        for column, start, stop in zip(self.columns, starts, starts[1:], strict=False):
            if column.name not in given:
                continue
            part, wish = self.seen[:, start:stop], settled(given[column.name], list(map(str, column.categories or ())))
            if isinstance(wish, Between | Among):
                within &= column.meant(wish, part)
                continue
            wish = None if wish == "" else wish
            if wish is None and not column.gaps:
                raise OptionError(f"--given {column.name}=: it was never missing in training")
            fixed[start] = value = column.encode([wish])
            if column.categories is None:
                distance += (part - value)[:, 0].square()
                agree &= (part == value)[:, 1:].all(1)  # of the flag, where there is one
            else:
                agree &= (part == value).all(1)
        if not bool(within.any()):
            raise OptionError(f"--given: none of the {len(self.seen)} training rows kept lies in all ranges given")
        places = self._agreeing(agree & within, within, given)
        near = distance[places]
        if bool(near.any()):
            count = min(len(near), max(_RARE_ROWS, round(_NEAREST * len(near))))
            places = places[near <= near.kthvalue(count).values]
        u = Stream(seed, "conditions").uniform(rows)
        drawn = self.seen[places[(u * len(places)).long().clamp(max=len(places) - 1)]]
        for start, value in fixed.items():
            drawn[:, start : start + value.shape[1]] = value
        return drawn

    def _agreeing(self, agree: Tensor, within: Tensor, given: Mapping[str, Any]) -> Tensor:
        """The places of the rows that agree, or with a warning all within: random ones where these are enough."""
        if bool(agree.any()):
            return self._random_or_all(agree)
        named = {column.name for column in self.columns if column.categories is not None}
        together = ", ".join(
            f"{name}={'' if value is None else value}"
            for name, value in given.items()
            if (name in named and not isinstance(value, Between | Among)) or value is None
        )
        does = "do" if bool(within.all()) else "does"
        of_them = " together" if bool(within.all()) else " within the ranges and choices given"
        warnings.warn(
            f"{together} {does} not occur{of_them} in the {len(self.seen)} training rows kept: samples are a guess, "
            f"and other conditions are drawn from all rows{'' if bool(within.all()) else ' within what else is given'}",
            stacklevel=3,
        )
        return self._random_or_all(within)

    def _random_or_all(self, chosen: Tensor) -> Tensor:
        """The places of the chosen rows: of the random part where it has enough of them."""
        common = chosen[: self.random].nonzero()[:, 0]
        return common if len(common) >= _RARE_ROWS else chosen.nonzero()[:, 0]

    def decode(self, features: Tensor) -> dict[str, np.ndarray]:
        """(n, k) back to columns by name, each (n,)."""
        parts = features.split([column.features for column in self.columns], dim=1)
        return {column.name: column.decode(part) for column, part in zip(self.columns, parts, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Plain values; `seen` is kept as a tensor beside them."""
        return {"columns": [asdict(column) for column in self.columns], "random": self.random}

    @staticmethod
    def from_json(fields: dict[str, Any], seen: Tensor) -> ConditionCodec:
        """The codec whose `to_json` gave these fields."""
        columns = []
        for f in fields["columns"]:
            categories = None if f["categories"] is None else tuple(f["categories"])
            grid = None if f["grid"] is None else Grid(**f["grid"])
            columns.append(ConditionColumn(**{**f, "categories": categories, "grid": grid}))
        return ConditionCodec(tuple(columns), seen, fields["random"])
