"""Rows drawn given what is known of each: holes of a table filled, and rows drawn with some columns given.

A missing cell of a row is drawn from p(missing cells | seen cells), by a particle filter over the levels of the model
of all columns, whatever cells are missing. Where cells were missing in training, so that the model draws gaps as well,
a hole is filled given that it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scorefield.chunks import in_chunks
from scorefield.codecs.cells import Cells
from scorefield.codecs.table import TableCodec
from scorefield.codecs.taken import Constant
from scorefield.codecs.vertices import REACH
from scorefield.data.clock import cast, of_texts
from scorefield.data.kinds import Data, Table
from scorefield.drawing import Count, OnProgress, Progress
from scorefield.errors import DataError, OptionError
from scorefield.features import Features
from scorefield.given import Given
from scorefield.guidance.constraints import Constraint
from scorefield.guidance.particles import ParticleFilter
from scorefield.guidance.rows import by_row
from scorefield.model import Denoiser
from scorefield.randomness import Stream

if TYPE_CHECKING:
    import pyarrow as pa

_PARTICLES = 1 << 13  # of all rows at a time
_NUMBERS = 1 << 18  # of all particles at a time
_ROW_BITS = 32  # of the number that keys a draw; its own number stands above


@dataclass(frozen=True)
class Filling:
    """How rows are drawn given what is known of them.

    Args:
        particles, levels: of the filter; the error goes to zero as both grow.
        seed: of all randomness.
    """

    particles: int = ParticleFilter.particles
    levels: int = ParticleFilter.levels
    seed: int = 0
    filter: ParticleFilter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "filter", ParticleFilter(self.particles, self.levels))


def draw_given(
    model_of: Callable[[range], Denoiser],
    denoiser: Denoiser,
    given: Given,
    rows: int,
    how: Filling,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Rows of which the same is known, (rows, D) on the host.

    Args:
        model_of: the denoiser for some rows, with their conditions bound.
        denoiser: whose calls are evaluations.
        given: what is known.
        rows: how many.
        how: particles, levels and seed.
        on_progress: called as rows are done; what it raises stops the drawing.
    """

    def of(part: range) -> tuple[Cells, Tensor]:
        return given.cells.rows(torch.zeros(len(part), dtype=torch.long)), given.known.expand(len(part), -1)

    return _drawn(model_of, denoiser, of, range(rows), given.constraints, how, on_progress)


def impute(
    model_of: Callable[[Tensor | None], Denoiser],
    denoiser: Denoiser,
    features: Features,
    data: Data,
    draws: int,
    how: Filling,
    on_progress: OnProgress | None = None,
) -> Table:
    """The rows of a table with their missing cells drawn.

    Args:
        model_of: the denoiser with conditions (B, k) bound, or none.
        denoiser: whose calls are evaluations.
        features: of the model.
        data: a table with the model's columns, missing cells as nulls.
        draws: K, how many rows are made of each, one after the other; with a column `draw`, from 1, where K > 1.
        how: particles, levels and seed.
        on_progress: called as rows are done; what it raises stops the work.

    Returns:
        K·n rows: seen cells as they were, columns in the table's order; those that are not modelled as they were, too.

    Raises:
        DataError: for a table of another form, and values that were never seen in training.
        OptionError: for fewer than one draw, and models of other data.
    """
    codec = features.codec
    if not isinstance(codec, TableCodec) or not isinstance(data, Table):
        raise OptionError(f"imputation fills missing cells of a table, this model is of {codec.kind}")
    if draws < 1:
        raise OptionError(f"draws must be at least 1, got {draws}")
    if draws > 1 and "draw" in data.columns.column_names:
        raise DataError(f"{data.source}: it has a column 'draw', which several draws would write: rename it")
    table, conditions = features.to_fill(data)
    codec.check_seen(table)
    open_rows = np.flatnonzero(_has_holes(codec, table))
    # Only rows with holes cost anything. A draw is keyed by its number and its row's, however many there are of each.
    draw, row = (part.reshape(-1) for part in np.meshgrid(np.arange(draws), open_rows, indexing="ij"))
    drawn = torch.zeros(0, *codec.shape)
    if len(row):

        def of(part: range) -> tuple[Cells, Tensor]:
            return codec.to_fill(table.rows(row[part.start : part.stop]))

        def model(part: range) -> Denoiser:
            own = torch.from_numpy(row[part.start : part.stop])
            return model_of(None if conditions is None else conditions[own])

        drawn = _drawn(model, denoiser, of, ((draw << _ROW_BITS) + row).tolist(), (), how, on_progress)
    filled = _put_in(data, codec, draws, codec.decode(drawn), row * draws + draw)
    return replace(data, columns=filled, first_line=None, notes=())


def _drawn(
    model_of: Callable[[range], Denoiser],
    denoiser: Denoiser,
    of: Callable[[range], tuple[Cells, Tensor]],
    names: Sequence[int],
    constraints: Sequence[Constraint],
    how: Filling,
    on_progress: OnProgress | None,
) -> Tensor:
    """Rows (n, D) given their cells and which numbers are known, by place in `names`, their own numbers; in chunks."""
    parameter = next(denoiser.parameters())
    features, drawn, asked = of(range(1))[0].centre.shape[1], [], Count()
    offsets, rows = Stream(how.seed, "offsets of what is given"), len(names)
    handle = denoiser.register_forward_hook(asked.add)

    def work(part: range) -> Tensor:
        cells, known = of(part)
        numbers = names[part.start : part.stop]
        # Further out a cell would stand where another name, or a gap, is nearer.
        z = by_row(numbers, lambda run: offsets.normal(run, (features,), dtype=torch.float64)).clamp(-REACH, REACH)
        x0 = cells.drawn(z).to(parameter)
        drawn = how.filter(model_of(part), x0, known.to(parameter.device), constraints, seed=how.seed, rows=numbers)
        return drawn.cpu()

    size = max(1, min(_PARTICLES, _NUMBERS // features) // how.particles)
    try:
        for part, x in in_chunks(range(rows), size, work):
            drawn.append(x)
            if on_progress is not None:
                on_progress(Progress(part.stop / rows, rows, asked.rows))
    finally:
        handle.remove()
    return torch.cat(drawn)


def _has_holes(codec: TableCodec, table: Table) -> np.ndarray:
    """Whether a modelled cell of each row is missing, (n,) bool."""
    holes = np.zeros(len(table), dtype=bool)
    for column in codec.columns:
        holes |= table.columns[column.name].is_null().to_numpy()
    return holes


def _put_in(data: Table, codec: TableCodec, draws: int, filled: Table, places: np.ndarray) -> pa.Table:
    """Every row of the data K times, its missing cells from rows that were drawn for these places of the result."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = np.zeros(len(data) * draws, dtype=np.int64)
    place[places] = np.arange(len(places))
    repeated = data.columns.take(pa.array(np.repeat(np.arange(len(data)), draws)))
    constants = {entry.name: entry for entry in codec.entries if isinstance(entry, Constant)}
    modelled = {column.name for column in codec.columns}
    columns: dict[str, pa.ChunkedArray] = {}
    if draws > 1:
        columns["draw"] = pa.chunked_array([pa.array(np.tile(np.arange(1, draws + 1), len(data)))])
    for name, column in zip(repeated.column_names, repeated.columns, strict=True):
        if name in modelled and column.null_count:
            drawn = filled.columns[name]
            kind = drawn.type if _widens(column.type, drawn.type) else column.type
            own = drawn.cast(kind).take(pa.array(place)) if len(drawn) else drawn
            columns[name] = pc.if_else(column.is_null(), own, cast(column, kind))
        elif name in constants and column.null_count and constants[name].value is not None:
            kind = codec.type_of(constants[name])
            columns[name] = pc.fill_null(column.cast(kind), of_texts(pa.array([constants[name].value]), kind)[0])
        else:
            columns[name] = column
    return pa.table(columns)


def _widens(seen: pa.DataType, drawn: pa.DataType) -> bool:
    """Whether drawn values need their own type: beside none, and numbers that whole ones seen may not hold."""
    import pyarrow as pa

    whole = pa.types.is_integer(seen) and (pa.types.is_integer(drawn) or pa.types.is_floating(drawn))
    text = pa.types.is_string(drawn) and not pa.types.is_string(seen)  # of which only numbers were seen, by chance
    timed = pa.types.is_date(seen) and pa.types.is_timestamp(drawn)
    return pa.types.is_null(seen) or (whole and seen != drawn) or text or timed
