"""Holes filled: the conditional of an exact mixture, rows by themselves, what was seen untouched, and each refusal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

from scorefield import filling
from scorefield.bundle import Bundle
from scorefield.codecs.column import Column
from scorefield.codecs.number import Number
from scorefield.codecs.numeric import NumericColumn
from scorefield.codecs.scalers import Standardise
from scorefield.codecs.table import TableCodec
from scorefield.data import Table
from scorefield.drawing import Progress
from scorefield.errors import DataError, OptionError
from scorefield.exact import GaussianMixture
from scorefield.features import Features
from scorefield.filling import Filling, impute
from scorefield.model import Denoiser
from scorefield.noise import EDM, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Stream

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _conditional_problems import ranks, six, uneven

GaussianOf = Callable[..., Bundle]
NAMES = tuple("abcdef")
SHIFT, SCALE = torch.linspace(-100, 200, 6, dtype=torch.float64), torch.logspace(-2, 3, 6, dtype=torch.float64)
FEW = Filling(4, 8)


class Oracle(Denoiser):
    """An exact mixture with a parameter, as a trained model has, whose type is that of the rows."""

    def __init__(self, law: GaussianMixture) -> None:
        super().__init__()
        self.law, self.schedule, self.sigma_data, self.moments = law, law.schedule, law.sigma_data, law.moments
        self.of_type = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        return self.law(x_t, t)  # type: ignore[no-any-return]


def scaled() -> Features:
    """Six continuous columns, each by its shift and scale."""
    columns = tuple(
        Column(name, Number(NumericColumn(name, Standardise(float(m), float(s)), None, -1e9, 1e9, False)))
        for name, m, s in zip(NAMES, SHIFT, SCALE, strict=True)
    )
    return Features(TableCodec(columns, ("double",) * 6, True), None, NAMES)


def as_table(x: Tensor, seen: Tensor) -> Table:
    """Rows (n, 6) of the model as data, with holes."""
    values, holes = (x * SCALE + SHIFT).numpy(), (~seen).numpy()
    return Table(pa.table({name: pa.array(values[:, k], mask=holes[:, k]) for k, name in enumerate(NAMES)}))


def as_rows(table: Table) -> Tensor:
    """The rows of the model."""
    values = np.stack([table.columns[name].to_numpy() for name in NAMES], axis=1)
    return (torch.from_numpy(values) - SHIFT) / SCALE


def filled(data: Table, draws: int = 1, how: Filling = FEW, said: list[Progress] | None = None) -> Table:
    oracle = Oracle(six(EDM(0.01, 40.0)))
    tell = None if said is None else said.append
    return impute(lambda conditions: oracle, oracle, scaled(), data, draws, how, tell)


def holes(rows: int) -> tuple[Tensor, Tensor]:
    """Rows of the mixture, and patterns of what is seen, none of them of nothing or all."""
    seen = Stream(0, "holes").uniform(rows, (6,)) < 0.5
    seen[~seen.any(1), 2] = True
    seen[seen.all(1), 4] = False
    return six(EDM(0.01, 40.0)).sample(rows, seed=5), seen


def first_ranks(drawn: Tensor, seen: Tensor) -> Tensor:
    """The rank of the first hole of each row in its exact conditional, (n,)."""
    law, u = six(EDM(0.01, 40.0)), torch.zeros(len(drawn), dtype=torch.float64)
    for pattern in seen.unique(dim=0):
        here = (seen == pattern).all(1)
        u[here] = ranks(law, drawn[here], pattern)[:, 0]
    return u


# -- the law ----------------------------------------------------------------------------------------------------------


def test_oracle_draws_are_of_the_exact_conditional_for_any_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    # H₀: the rank of a row's first hole in its conditional is uniform (`uneven`, 9e-7), and 90 % of ranks lie in the
    # central 90 %: of 2400 rows 0.02 is 3.3 standard errors, 1e-3. All 62 patterns of holes at once.
    x, seen = holes(2400)
    assert len(seen.unique(dim=0)) == 62
    u = first_ranks(as_rows(filled(as_table(x, seen), how=Filling())), seen)
    assert uneven(u) < 1
    assert 0.88 < float(((u > 0.05) & (u < 0.95)).double().mean()) < 0.92
    # Caught: seen cells of which nothing is known to the filter.
    known = Column.known
    monkeypatch.setattr(Column, "known", lambda column, cells: known(column, cells) & (column.name in "ab"))
    assert uneven(first_ranks(as_rows(filled(as_table(x, seen))), seen)) > 1


def test_oracle_draws_of_one_row_are_independent() -> None:
    # H₀: of 400 draws of one row each hole has its conditional; `uneven`. Caught: draws that share their noise.
    x, seen = holes(1)
    drawn = as_rows(filled(as_table(x, seen), 400, Filling(16, 32)))
    assert uneven(ranks(six(EDM(0.01, 40.0)), drawn, seen[0])) < 1
    assert len(drawn.unique(dim=0)) == 400


# -- rows by themselves -----------------------------------------------------------------------------------------------


def test_a_row_is_filled_alike_in_any_chunks_and_whatever_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = holes(40)
    seen[3:9] = True  # without holes
    whole = as_rows(filled(as_table(x, seen), 2))
    monkeypatch.setattr(filling, "_PARTICLES", 4 * 7)
    torch.testing.assert_close(as_rows(filled(as_table(x, seen), 2)), whole, rtol=0, atol=1e-9)
    # Fewer rows, other values beside it, others with and without holes.
    torch.testing.assert_close(as_rows(filled(as_table(x[:20], seen[:20]), 2)), whole[:40], rtol=0, atol=1e-9)
    other, pattern = x.flip(0), ~seen
    other[[12, 31]], pattern[[12, 31]] = x[[12, 31]], seen[[12, 31]]
    pattern[13:29] = True
    again = as_rows(filled(as_table(other, pattern), 2))
    for row in (12, 31):
        torch.testing.assert_close(again[2 * row : 2 * row + 2], whole[2 * row : 2 * row + 2], rtol=0, atol=1e-9)
    # A row of another number is drawn by other noise.
    moved = as_rows(filled(as_table(x.roll(1, 0), seen.roll(1, 0)), 2)).roll(-2, 0)
    assert (moved[24:26] - whole[24:26]).abs().max() > 1e-3


def test_a_seed_repeats_and_another_does_not() -> None:
    data = as_table(*holes(10))
    first = filled(data)
    assert first.columns.equals(filled(data).columns)
    assert not first.columns.equals(filled(data, how=Filling(4, 8, seed=1)).columns)


def test_progress_counts_rows_and_evaluations() -> None:
    said: list[Progress] = []
    x, seen = holes(9)
    seen[2] = True
    filled(as_table(x, seen), 2, said=said)
    # Eight rows twice, four particles at eight levels each.
    assert (said[-1].share, said[-1].rows, said[-1].evaluations) == (1.0, 16, 16 * 4 * 8)


def test_law_a_draw_is_the_same_however_many_there_are() -> None:
    data = as_table(*holes(9))
    one, three = as_rows(filled(data)), as_rows(filled(data, 3))
    torch.testing.assert_close(three[::3], one, rtol=0, atol=1e-9)
    assert (three[1::3] - one).abs().max() > 1e-3


def test_draws_stand_one_after_the_other_and_whole_rows_are_repeated() -> None:
    x, seen = holes(5)
    seen[1] = True
    data = as_table(x, seen)
    many = filled(data, 3)
    assert many.columns.column_names == ["draw", *NAMES]
    assert many.columns["draw"].to_pylist() == [1, 2, 3] * 5
    for row in range(5):
        three, own = many.columns.slice(3 * row, 3), data.columns.slice(row, 1)
        for k, name in enumerate(NAMES):
            values = three[name].to_pylist()
            assert len(set(values)) == (1 if seen[row, k] else 3)
            assert not seen[row, k] or values == 3 * own[name].to_pylist()
    whole = as_table(x, torch.ones_like(seen))
    assert filled(whole).columns.equals(whole.columns)
    assert filled(whole, 2).columns.drop_columns(["draw"]).equals(whole.columns.take([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]))


# -- tables as they are -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(gaussian_of: GaussianOf, people: pa.Table) -> Bundle:
    return gaussian_of(people, types={"size": "ordered:S<M<L<XL"})


def torn(table: pa.Table, rows: int = 60, share: float = 0.4) -> pa.Table:
    """Some rows with holes in every column."""
    mask = np.random.default_rng(1).random((rows, table.num_columns)) < share
    columns = {
        name: pc.if_else(pa.array(mask[:, k]), pa.scalar(None, column.type), column.combine_chunks())
        for k, (name, column) in enumerate(zip(table.column_names, table.slice(0, rows).columns, strict=True))
    }
    return pa.table(columns)


def test_seen_cells_and_types_are_kept_and_holes_are_filled_with_what_there_was(
    model: Bundle, people: pa.Table
) -> None:
    data = torn(people).append_column("note", pa.array(["x", None] * 30))
    out = model.impute(data, how=FEW).columns
    assert out.schema == data.schema
    for name in data.column_names:
        seen = pc.is_valid(data[name])
        assert out[name].filter(seen).equals(data[name].filter(seen))
        if name in ("void", "id", "note"):
            assert out[name].equals(data[name])  # nothing is known of them
        else:
            assert out[name].null_count == 0, name
            drawn, known = out[name].filter(pc.is_null(data[name])).to_pylist(), people[name].drop_null()
            assert min(known.to_pylist()) <= min(drawn)
            assert max(drawn) <= max(known.to_pylist())
            if name in ("stars", "port", "member", "size", "fixed"):
                assert set(drawn) <= set(known.to_pylist())
    assert all(round(value, 1) == value for value in out["height"].to_pylist())


def test_columns_may_stand_in_another_order_and_in_other_types(model: Bundle, people: pa.Table) -> None:
    data = torn(people)
    turned = data.select(data.column_names[::-1])
    out, other = (model.impute(table, how=FEW).columns for table in (data, turned))
    assert other.column_names == turned.column_names
    assert other.select(data.column_names).equals(out)
    # Whole numbers where fractions were seen in training: what is drawn keeps its fractions. Small ones where larger
    # were seen: they fit. All cells missing: of the type of training.
    small = people.slice(0, 60).set_column(1, "height", pa.array([170, None] * 30, pa.int16()))
    small = small.set_column(3, "gain", pa.array([0, None] * 30, pa.int8()))
    small = small.set_column(6, "member", pa.nulls(60))
    out = model.impute(small, how=FEW).columns
    assert [out.schema.field(name).type for name in ("height", "gain", "member")] == [
        pa.float64(),
        pa.int64(),
        pa.bool_(),
    ]
    assert any(value != round(value) for value in out["height"].to_pylist())
    assert max(out["gain"].to_pylist()) > 127


def test_gaps_of_training_are_filled_here(model: Bundle, people: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    # However far from its vertex the flag of a cell is put, as it is once in millions: it never reads as a gap.
    data = people.slice(0, 40).set_column(5, "port", pa.nulls(40, pa.string()))
    assert model.impute(data, how=FEW).columns["port"].null_count == 0
    normal = Stream.normal

    def far(stream: Stream, *arguments: Any, **others: Any) -> Tensor:
        z = normal(stream, *arguments, **others)
        return torch.full_like(z, -6.5) if stream.name == "offsets of what is given" else z

    monkeypatch.setattr(Stream, "normal", far)
    assert model.impute(data, how=FEW).columns["port"].null_count == 0


def test_conditions_are_kept_and_bound_to_their_rows(gaussian_of: GaussianOf, people: pa.Table) -> None:
    bundle = gaussian_of(people.select(["age", "weight", "stars"]), ["stars"])
    bound: list[Tensor] = []
    network = bundle.denoiser.network
    handle = network.register_forward_hook(lambda module, inputs, output: bound.append(inputs[2]))
    data = people.select(["age", "weight", "stars"]).slice(0, 4)
    data = data.set_column(0, "age", pa.array([None, 30, None, None], pa.int64()))
    out = bundle.impute(data, 2, how=Filling(1, 2)).columns
    handle.remove()
    assert out["stars"].to_pylist() == [value for value in data["stars"].to_pylist() for _ in range(2)]
    asked = bound[0].argmax(1).reshape(2, -1)  # draw by draw
    assert asked.tolist() == 2 * [[data["stars"][row].as_py() - 1 for row in (0, 2, 3)]]
    broken = data.set_column(2, "stars", pa.array([1, None, 2, 3], pa.int32()))
    with pytest.raises(OptionError, match="'stars' has 1 missing cells, the first in data row 2, and had none in"):
        bundle.impute(broken)
    with pytest.raises(OptionError, match="'stars' was never '9'"):
        bundle.impute(data.set_column(2, "stars", pa.array([9, 1, 2, 3], pa.int32())))


def test_texts_of_which_only_numbers_were_seen_are_filled_as_texts(gaussian_of: GaussianOf) -> None:
    days = pa.array([86_400 * day + 3600 * (day % 5) for day in range(60)], pa.timestamp("s"))
    table = pa.table({"zip": ["A1", "B2", "17", "23"] * 15, "day": days, "x": np.arange(60) / 7})
    holes = pa.table({"zip": [17, None, None], "day": pa.array([3, None, None], pa.date32()), "x": [1.5, 2.5, None]})
    found = gaussian_of(table).impute(holes, 4, how=Filling(2, 4)).columns
    assert found["zip"].type == pa.string()
    assert found["zip"].to_pylist()[:4] == ["17"] * 4
    assert set(found["zip"].to_pylist()) <= {"A1", "B2", "17", "23"}
    assert found["day"].type == pa.timestamp("s")
    assert len({value.hour for value in found["day"].to_pylist()}) > 1


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*arguments: object) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr("scorefield.model.NetworkDenoiser._input_scales", asked)


def changed(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: changed(t, "port", pa.array(["S", "Z", None])), "row 2: column 'port' was never 'Z'.*C, Q, S"),
        (lambda t: changed(t, "size", pa.array(["XS", "S", None])), "'size' was never 'XS'.*known are S, M, L, XL"),
        (lambda t: t.drop_columns(["age"]), r"\['age'\] are missing; the model was trained with them"),
        (lambda t: t.rename_columns(["Age", *t.column_names[1:]]), r"\['age'\] are missing, and has \['Age'\] instead"),
        (lambda t: changed(t, "fixed", pa.array([7, 8, None], pa.int16())), "'fixed' is 8, which was always 7"),
        (lambda t: changed(t, "age", pa.array(["x", "y", None])), "'age' holds string, the model was trained with"),
        (lambda t: changed(t, "weight", pa.array([70.0, np.inf, None])), "inf at row 2, column 'weight'"),
        (lambda t: t.slice(0, 0), "no rows, "),
    ],
)
def test_tables_unlike_the_models_are_refused(
    model: Bundle, people: pa.Table, unasked: None, change: Callable[[pa.Table], pa.Table], part: str
) -> None:
    with pytest.raises(DataError, match=part):
        model.impute(change(torn(people, 3)))


def test_wrong_use_is_refused(model: Bundle, people: pa.Table, unasked: None) -> None:
    data = torn(people, 3)
    for draws in (0, -1):
        with pytest.raises(OptionError, match=f"draws must be at least 1, got {draws}"):
            model.impute(data, draws)
    named = data.append_column("draw", pa.array([1, 2, 3]))
    with pytest.raises(DataError, match="a column 'draw', which several draws would write"):
        model.impute(named, 2)
    with pytest.raises(OptionError, match="at least 1 particle and 2 levels, got 4 and 1"):
        Filling(4, 1)
    with pytest.raises(OptionError, match="fills missing cells of a table"):
        model.impute(np.zeros((3, 2), np.float32))
    with pytest.raises(AssertionError, match="the network was called"):
        model.impute(data)


def test_a_column_draw_of_the_data_is_kept_by_one_draw(model: Bundle, people: pa.Table) -> None:
    named = torn(people, 3).append_column("draw", pa.array([4, 5, 6]))
    assert model.impute(named, how=FEW).columns["draw"].to_pylist() == [4, 5, 6]


def test_a_date_is_filled_with_a_date(model: Bundle, people: pa.Table) -> None:
    data = changed(people.slice(0, 9), "day", pa.nulls(9, pa.date32()))
    drawn = model.impute(data, how=FEW).columns["day"]
    assert drawn.type == pa.date32()
    assert all(date(2020, 1, 1) <= day <= date(2022, 6, 30) for day in drawn.to_pylist())
