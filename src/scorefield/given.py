"""From what a user says of columns, values, choices and ranges, to the numbers and constraints of an encoded row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.between import Among, Between, allowed, in_numbers, settled
from scorefield.codecs.category import Category, named
from scorefield.codecs.cells import Cells
from scorefield.codecs.clock import Clock, counted
from scorefield.codecs.column import Column, Values
from scorefield.codecs.number import Number
from scorefield.codecs.ordered import Ordered
from scorefield.codecs.support import Support
from scorefield.codecs.table import TableCodec
from scorefield.codecs.taken import Constant, LeftOut
from scorefield.data.clock import is_clock, of_texts, ticks
from scorefield.data.kinds import Table
from scorefield.data.schema import suggestion
from scorefield.errors import OptionError
from scorefield.guidance.constraints import Constraint, Interval, Vertices
from scorefield.guidance.spiked import IntervalOrVertices

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Given:
    """What is known of a row.

    Args:
        cells: of one row; numbers that are not known are of no account.
        known: (1, D) bool.
        constraints: on the others.
        values: by column, those that are given, None for a missing one.
    """

    cells: Cells
    known: Tensor
    constraints: tuple[Constraint, ...]
    values: Mapping[str, Any]

    def kept(self, drawn: Table) -> Table:
        """Drawn rows with what is given as it was said, neither rounded nor brought into the range that was seen."""
        import pyarrow as pa

        columns = {name: drawn.columns[name] for name in drawn.columns.column_names}
        for name, value in self.values.items():
            columns[name] = pa.chunked_array([pa.array([value] * len(drawn), columns[name].type)])
        return replace(drawn, columns=pa.table(columns))


def given_row(codec: TableCodec, given: Mapping[str, Any], conditions: Sequence[str] = ()) -> Given:
    """What is known of a row of which some columns are given.

    Args:
        codec: of the table.
        given: by column a value, None or "" for a missing one; `Between`; or `Among`.
        conditions: what the model is told in another way, for messages.

    Raises:
        OptionError: for columns that are not modelled, values that were never seen, and ranges that hold none.
    """
    import pyarrow as pa

    for name in given:
        _check_modelled(codec, name, conditions)
    cells, known, constraints = [], [], []
    values: dict[str, Any] = {}
    for column in codec.columns:
        wish, kind = given.get(column.name, _ANY), codec.type_of(column)
        wish = settled(wish, column.values.values if isinstance(column.values, Category) else ())
        if isinstance(wish, Among):
            named_as = tuple(_value(value, kind, column.name) for value in wish.values)
            if isinstance(column.values, Category):  # which has dates and times by their text
                named_as = tuple(named(pa.array([value], kind))[0].as_py() for value in named_as)
            wish = replace(wish, values=named_as)
        elif wish is not _ANY and not isinstance(wish, Between):
            wish = values[column.name] = None if wish is None or wish == "" else _value(wish, kind, column.name)
        own, is_known = _cells(column, wish, kind)
        cells.append(own)
        known.append(is_known)
        if isinstance(wish, Between | Among):
            places = torch.arange(codec.place(column.name).start + column.gaps, codec.place(column.name).stop)
            constraint = _constraint(column, wish, places, kind)
            constraints += [] if constraint is None else [constraint]
    return Given(Cells.beside(cells), torch.cat(known, dim=1), tuple(constraints), values)


_ANY = object()  # a column of which nothing is said


def _check_modelled(codec: TableCodec, name: str, conditions: Sequence[str]) -> None:
    for entry in codec.entries:
        if entry.name == name and isinstance(entry, Constant):
            raise OptionError(f"--given: column {name!r} is {entry.value} in every row, nothing depends on it")
        if entry.name == name and isinstance(entry, LeftOut):
            raise OptionError(f"--given: column {name!r} is not modelled: {entry.reason}")
    names = [*conditions, *(column.name for column in codec.columns)]
    if name not in names:
        raise OptionError(f"--given: no column {name!r}{suggestion(name, names)}; there are {names}")


def _cells(column: Column, wish: Any, kind: pa.DataType) -> tuple[Cells, Tensor]:
    """The cells of a column and which of its numbers are known, (1, d)."""
    import pyarrow as pa

    nothing = pa.chunked_array([pa.nulls(1, kind)])
    known = torch.zeros(1, column.features, dtype=torch.bool)
    if wish is _ANY:
        return column.cells(nothing), known
    known[:, : column.gaps] = True
    if isinstance(wish, Between | Among):
        return column.present(column.cells(nothing)), known
    if wish is None:
        if not column.gaps:
            raise OptionError(f"--given {column.name}=: it was never missing in training")
        return column.cells(nothing), known
    cell = pa.chunked_array([pa.array([wish], kind)])
    for reason in column.unusable(cell).values():
        raise OptionError(f"--given {column.name}={wish}: it {reason}")
    number = column.values.number if isinstance(column.values, Clock) else column.values
    if isinstance(number, Number) and isinstance(number.value.grid, Support):
        # Beyond its ends a value would be taken for the last one.
        ends, value = number.value.grid.edges, _counted(column.values, wish)
        if not ends[0] <= value <= ends[-1] and value not in number.spikes:
            raise OptionError(f"--given {column.name}={wish}: there were {column.describe()} in training")
    known[:] = True
    return column.cells(cell), known


def _value(wish: Any, kind: pa.DataType, name: str) -> Any:
    """A value of an Arrow type, from text or as it is."""
    import pyarrow as pa

    try:
        if isinstance(wish, str):
            return of_texts(pa.array([wish]), kind)[0].as_py()
        # Made of that type at once, a float would lose what is behind its point, and a number be a time.
        rounded = is_clock(kind) or (pa.types.is_integer(kind) and isinstance(wish, float | np.floating))
        return (pa.scalar(wish).cast(kind) if rounded else pa.scalar(wish, kind)).as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"--given {name}={wish}: the column holds {kind}: {error}") from error


def _counted(values: Values, wish: Any) -> float:
    """A value as the number that it is encoded by."""
    if isinstance(values, Clock):
        wish = counted(Between(low=wish), values.number.name, values.type, values.per).low
    return float(wish)


def _constraint(column: Column, wish: Between | Among, places: Tensor, kind: pa.DataType) -> Constraint | None:
    """What a choice or a range asks of the numbers at some places; None where it leaves no choice."""
    values, name = column.values, column.name
    if wish == Among((), other=True):
        return None  # whatever is there
    if isinstance(values, Category):
        meant_names = torch.tensor(_names_meant(values, wish, kind))
        return None if bool(meant_names.all()) else Vertices(places, values.vertices.points, meant_names)
    if isinstance(wish, Among) or not isinstance(values, Number | Ordered | Clock):
        raise OptionError(f"--given {name}: {column.describe()} can be given a value{_RANGES.get(values.kind, '')}")
    number, meant = _as_numbers(values, wish, name)
    low, high = number.between(meant)
    spikes = torch.tensor([meant.holds(spike) for spike in number.spikes], dtype=torch.bool)
    if low >= high and not bool(spikes.any()):
        seen = (number.value.low, number.value.high, *number.spikes)
        spanned = f"{min(seen):g} to {max(seen):g}" if isinstance(values, Number) else values.describe()
        raise OptionError(f"--given {name}: no value is meant, there were {spanned} in training")
    if not number.spikes:
        return Interval(places, torch.tensor([low]), torch.tensor([high]))
    return IntervalOrVertices(places, number.vertices.points, spikes, low, high)


def _names_meant(values: Category, wish: Between | Among, kind: pa.DataType) -> list[bool]:
    """Which of a column's names are meant; few times are names, and have an order all the same."""
    if isinstance(wish, Among) or not is_clock(kind):
        return allowed(wish, values.values, values.name, values.listed)
    return allowed(counted(wish, values.name, kind), ticks(values.array(kind)).to_pylist(), values.name, values.listed)


_RANGES = {kind.kind: " or a range" for kind in (Number, Ordered, Clock)}


def _as_numbers(values: Number | Ordered | Clock, wish: Between, name: str) -> tuple[Number, Between]:
    """The numbers that a column is encoded by, and a range in them."""
    if isinstance(values, Ordered):
        return values.ranks, _ranked(values, wish)
    if isinstance(values, Number):
        return values, in_numbers(wish, name)
    return values.number, counted(wish, name, values.type, values.per)


def _ranked(values: Ordered, wish: Between) -> Between:
    """The ends as ranks."""
    ranks = {str(value): rank for rank, value in enumerate(values.names.values)}
    named = [None if end is None else settled(str(end), tuple(ranks)) for end in (wish.low, wish.high)]
    for end in named:
        if end is not None and end not in ranks:
            raise OptionError(f"--given {values.names.name}: no {end!r} in the order {' < '.join(ranks)}")
    ends = [None if end is None else ranks[end] for end in named]
    return Between(ends[0], ends[1], wish.above, wish.below)
