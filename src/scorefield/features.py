"""A data set as a model sees it: columns that it is conditioned on taken out, the rest encoded; and back again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.blocks import Blocks
from scorefield.codecs.base import Codec
from scorefield.codecs.between import Among, Between
from scorefield.codecs.cells import Cells
from scorefield.codecs.choose import codec_from_json, fit_codec
from scorefield.codecs.condition import ConditionCodec
from scorefield.codecs.table import TableCodec
from scorefield.data.checks import check_finite
from scorefield.data.clock import cast, is_clock, of_texts
from scorefield.data.kinds import Data, Images, Table
from scorefield.errors import DataError, OptionError
from scorefield.randomness import Noise, Stream
from scorefield.training.rows import Take

if TYPE_CHECKING:
    import pyarrow as pa

_ENCODED_AT_ONCE = 1 << 28  # numbers; images of more are encoded batch by batch
_MEASURED = 1 << 26  # numbers from which the noise range is measured
_MEASURED_IN_CELLS = 1 << 23  # of a table, which take four times the memory
_CELLS_AT_ONCE = 1 << 16  # rows


@dataclass(frozen=True)
class Features:
    """The codec of the rows, that of their conditions, and where the conditions stood.

    Args:
        codec: of what is modelled.
        conditions: of what it is conditioned on, or None.
        order: column names of a table in the user's order, () for other data.
        clocks: Arrow's name of the type of those conditions that are times or durations, which are told as text.
    """

    codec: Codec
    conditions: ConditionCodec | None
    order: tuple[str, ...]
    clocks: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def fit(data: Data, condition: Sequence[str], seed: int, types: Mapping[str, str] | None = None) -> Features:
        """Fit codecs to data.

        Args:
            data: as read.
            condition: names of columns or labels to condition on.
            seed: of what is kept of the conditions.
            types: of columns of a table by name (`codecs.taken.TYPES`), instead of what their values say.

        Raises:
            DataError: when the data cannot be modelled.
            OptionError: for a condition that is not there.
        """
        if len(data) < 2:
            raise DataError(f"{data.source}: {len(data)} row, at least 2 are needed to learn a distribution")
        rest, values = _take_out(data, condition)
        check_finite(rest)
        _check_types(types or {}, data, condition)
        codec = TableCodec.fit(rest, types) if isinstance(rest, Table) else fit_codec(rest)
        conditions = ConditionCodec.fit(values, seed) if values else None
        if not isinstance(data, Table):
            return Features(codec, conditions, ())
        types_of = {name: data.columns.schema.field(name).type for name in condition}
        clocks = {name: str(kind) for name, kind in types_of.items() if is_clock(kind)}
        return Features(codec, conditions, tuple(data.columns.column_names), clocks)

    @property
    def condition_names(self) -> list[str]:
        """Names of the conditions."""
        return [] if self.conditions is None else [column.name for column in self.conditions.columns]

    @property
    def names(self) -> list[str]:
        """Names of all that rows have: conditions, and columns of a table."""
        columns = self.codec.names if isinstance(self.codec, TableCodec) else ()
        return [*self.condition_names, *columns]

    @property
    def condition_features(self) -> int:
        """Width of an encoded condition, 0 without one."""
        return 0 if self.conditions is None else self.conditions.features

    @property
    def blocks(self) -> Blocks | None:
        """The numbers of a row that stand about vertices, None where there are none."""
        return self.codec.blocks if isinstance(self.codec, TableCodec) else None

    def take(self, data: Data, device: torch.device) -> Take:
        """How training takes rows of this data by number; those of a table stand in their cells anew each time."""
        rest, values = _take_out(data, self.condition_names, self.clocks)
        conditions = None if self.conditions is None else self.conditions.encode(values).to(device)
        if isinstance(self.codec, TableCodec):
            # In float64 a part at a time: of a million rows of twenty columns they would be gigabytes.
            parts = np.split(np.arange(len(rest)), range(_CELLS_AT_ONCE, len(rest), _CELLS_AT_ONCE))
            cells = Cells.below([self.codec.cells(rest.rows(part)).kept(device) for part in parts])

            def within(numbers: np.ndarray, offsets: Noise) -> tuple[Tensor, Tensor | None]:
                index = torch.from_numpy(numbers).to(device)
                taken = cells.rows(index)
                bound = None if conditions is None else conditions.index_select(0, index)
                return taken.drawn(offsets.like(taken.centre)), bound

            return within
        encoded = None
        if not isinstance(rest, Images) or len(rest) * rest.pixels[0].size <= _ENCODED_AT_ONCE:
            encoded = self.codec.encode(rest).to(device)

        def rows(numbers: np.ndarray, offsets: Noise) -> tuple[Tensor, Tensor | None]:
            index = torch.from_numpy(numbers).to(device)
            bound = None if conditions is None else conditions.index_select(0, index)
            if encoded is not None:
                return encoded.index_select(0, index), bound
            return self.codec.encode(rest.rows(numbers)).to(device), bound

        return rows

    def encode(self, data: Data) -> tuple[Tensor, Tensor | None]:
        """All rows of the user's data, (n, *shape), and their conditions (n, k) or None: the inverse of `decode`.

        Raises:
            DataError: for no rows, values that are not finite, and rows unlike those of training.
        """
        if not len(data):
            raise DataError(f"{data.source}: no rows, at least 1 is needed")
        rest, values = _take_out(data, self.condition_names, self.clocks)
        check_finite(rest)
        return self.codec.encode(rest), None if self.conditions is None else self.conditions.encode(values)

    def unusable_rows(self, data: Data) -> dict[int, str]:
        """The rows that have no density under a model of these features, each with the reason, by row from 0.

        A cell is missing or not finite, a condition was never seen in training, or a column that was constant in
        training has another value.

        Raises:
            DataError: where the whole data set is of another form: other columns, another size of images.
            OptionError: for conditions that are not there.
        """
        _check_names(self.condition_names, _names(data), data.source)
        found: dict[int, str] = {}
        for column in self.conditions.columns if self.conditions else ():
            values = (
                _told(data.columns[column.name], self.clocks.get(column.name)).to_pylist()
                if isinstance(data, Table)
                else data.label_columns[column.name]
            )
            found |= {row: reason for row, reason in column.unusable(values).items() if row not in found}
        rest = _without(data, self.condition_names)
        found |= {row: reason for row, reason in self.codec.unusable(rest).items() if row not in found}
        return dict(sorted(found.items()))

    def spread(self, data: Data, u: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encoded rows for their density, each value moved within its bin, as the codec's `spread` says.

        Args:
            data: rows that are all usable.
            u: (n, *shape) in [0, 1), or None; x may be differentiated in it.

        Returns:
            x (n, *shape) float64, the log-Jacobian (n,) float64 in nats, and conditions (n, k) or None.

        Raises:
            DataError: for rows without a density, as `unusable_rows` finds them, and data of another form.
        """
        unusable = self.unusable_rows(data)
        if unusable:
            row, reason = next(iter(unusable.items()))
            line = data.first_line if isinstance(data, Table) else None
            where = f"row {row + 1}" + (f" (line {line + row})" if line is not None else "")
            raise DataError(f"{data.source}: {len(unusable)} rows have no density; the first is {where}: {reason}")
        rest, values = _take_out(data, self.condition_names, self.clocks)
        return *self.codec.spread(rest, u), None if self.conditions is None else self.conditions.encode(values)

    def to_fill(self, data: Table) -> tuple[Table, Tensor | None]:
        """A table with holes without its conditions, and these, (n, k) or None.

        Raises:
            DataError: for a table of other columns, and values that were never seen.
        """
        if not len(data):
            raise DataError(f"{data.source}: no rows, at least 1 is needed")
        rest, values = _take_out(data, self.condition_names, self.clocks)
        assert isinstance(rest, Table)
        check_finite(rest)
        return rest, None if self.conditions is None else self.conditions.encode(values)

    def measured_rows(self, data: Data, seed: int = 0) -> Tensor:
        """Encoded rows to measure the noise range from: all, or random ones of a large set, (m, *shape).

        Numbers of a table stand somewhere in their cells, as they do in training.
        """
        rest, _ = _take_out(data, self.condition_names, self.clocks)
        numbers = _MEASURED_IN_CELLS if isinstance(self.codec, TableCodec) else _MEASURED
        most = max(4000, numbers // max(1, int(np.prod(self.codec.shape))))
        if len(rest) > most:
            rest = rest.rows(np.sort(Stream(seed, "rows measured").permutation(len(rest))[:most]))
        if not isinstance(self.codec, TableCodec):
            return self.codec.encode(rest)
        cells = self.codec.cells(rest)
        return cells.drawn(Noise(Stream(seed, "offsets measured"), range(len(rest)), 0).like(cells.centre)).float()

    def decode(self, x: Tensor, condition: Tensor | None) -> Data:
        """Rows in the form of the user's data, conditions back in their places."""
        data = self.codec.decode(x)
        if self.conditions is None or condition is None:
            return data
        return _put_back(data, self.conditions.decode(condition), self.order, self.clocks)

    def told(self, name: str, wish: Any) -> Any:
        """A value or a choice for a condition, times by the text that they are told as.

        Raises:
            OptionError: for text that is no time.
        """
        import pyarrow as pa

        if name not in self.clocks or wish is None or wish == "" or isinstance(wish, Between):
            return wish
        if isinstance(wish, Among):
            return replace(wish, values=tuple(self.told(name, value) for value in wish.values))
        try:
            return _told(pa.array([wish]), self.clocks[name])[0].as_py()
        except DataError as error:
            raise OptionError(f"--given {name}={wish}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain values; the conditions seen are kept as a tensor beside them."""
        conditions = None if self.conditions is None else self.conditions.to_json()
        return {
            "codec": self.codec.to_json(),
            "conditions": conditions,
            "order": list(self.order),
            "clocks": dict(self.clocks),
        }

    @staticmethod
    def from_json(fields: dict[str, Any], seen: Tensor | None) -> Features:
        """The features whose `to_json` gave these fields."""
        conditions = None
        if fields["conditions"] is not None and seen is not None:
            conditions = ConditionCodec.from_json(fields["conditions"], seen)
        return Features(codec_from_json(fields["codec"]), conditions, tuple(fields["order"]), fields["clocks"])


def columns_to_read(columns: Sequence[str] | None, condition: Sequence[str]) -> list[str] | None:
    """The columns to read so that both those to model and the conditions are there; None, all, stays None.

    Args:
        columns: to model, and possibly conditions among them.
        condition: columns or labels to condition on; those not among `columns` are read after them.
    """
    if columns is None:
        return None
    return [*columns, *(name for name in dict.fromkeys(condition) if name not in columns)]


def _check_types(types: Mapping[str, str], data: Data, condition: Sequence[str]) -> None:
    """Refuse types of what has no columns, and of conditions."""
    if types and not isinstance(data, Table):
        raise OptionError(f"--column-type {next(iter(types))}: {data.source} is {data.kind}, which has no columns")
    for name in types:
        if name in condition:
            raise OptionError(f"--column-type {name}: a condition has the type of its values")


def _take_out(
    data: Data, names: Sequence[str], clocks: Mapping[str, str] | None = None
) -> tuple[Data, dict[str, np.ndarray]]:
    """The data without these columns or labels, and the columns, each (n,); times and durations of known types."""
    _check_names(names, _names(data), data.source)
    if not isinstance(data, Table):
        return _without(data, names), {name: np.asarray(data.label_columns[name]) for name in names}
    return _without(data, names), {name: _masked(_told(data.columns[name], (clocks or {}).get(name))) for name in names}


def _told(column: Any, clock: str | None = None) -> Any:
    """A column of conditions, times and durations as text, once they are of a type.

    Raises:
        DataError: for cells that are none.
    """
    import pyarrow as pa

    if clock is not None and str(column.type) != clock:
        kind = pa.type_for_alias(clock)
        try:
            column = cast(column, kind)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"the model was told {clock}, got {column.type}: {error}") from error
    return column.cast(pa.string()) if is_clock(column.type) else column


def _masked(column: pa.ChunkedArray) -> np.ndarray:
    """A column as an array (n,) of its own type, masked where it is missing."""
    if not column.null_count:
        return column.to_numpy()
    present = column.drop_null()
    if not len(present):
        return np.ma.masked_all(len(column), object)
    return np.ma.MaskedArray(column.fill_null(present[0]).to_numpy(), column.is_null().to_numpy())


def _without(data: Data, names: Sequence[str]) -> Data:
    """The data without these columns, or without any labels."""
    if not isinstance(data, Table):
        return replace(data, labels=None, label_name="", label_columns={})
    rest = replace(data, columns=data.columns.drop_columns(list(names)) if names else data.columns)
    if not rest.columns.num_columns:
        raise OptionError(f"{data.source}: every column is a condition, none is left to model")
    return rest


def _names(data: Data) -> list[str]:
    """Of the columns or labels that can be conditions."""
    return list(data.columns.column_names) if isinstance(data, Table) else list(data.label_columns)


def _put_back(data: Data, values: dict[str, np.ndarray], order: tuple[str, ...], clocks: Mapping[str, str]) -> Data:
    if isinstance(data, Table):
        import pyarrow as pa

        columns = {name: data.columns[name] for name in data.columns.column_names}
        for name, column in values.items():
            # Text that is missing throughout does not say that it is text.
            kind = pa.string() if column.dtype.kind == "O" else None
            told = pa.array(column, kind)
            columns[name] = pa.chunked_array(
                [of_texts(told, pa.type_for_alias(clocks[name])) if name in clocks else told]
            )
        kept = [name for name in order if name in columns]  # others were left out
        return replace(data, columns=pa.table([columns[name] for name in kept], names=kept))
    name, labels = next(iter(values.items()))
    return replace(data, labels=labels, label_name=name, label_columns=values)


def _check_names(names: Sequence[str], known: Sequence[str], source: str) -> None:
    from scorefield.data.schema import suggestion

    for name in names:
        if name not in known:
            found = f"there are {list(known)}" if known else "it has no labels"
            raise OptionError(f"{source}: no column {name!r} to condition on{suggestion(name, list(known))}; {found}")
