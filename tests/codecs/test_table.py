"""Tables there and back: values, types and constants kept, log-Jacobian against derivatives, refusals by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.codecs.choose import codec_from_json, fit_codec
from scorefield.codecs.number import Number
from scorefield.codecs.scalers import Scaler
from scorefield.codecs.table import TableCodec
from scorefield.data import Array, Table
from scorefield.errors import BundleError, DataError
from scorefield.randomness import Stream

quick = settings(max_examples=60, deadline=None)
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def table(**columns: Any) -> Table:
    return Table(pa.table({name: c if isinstance(c, pa.Array) else pa.array(c) for name, c in columns.items()}))


def scaler_of(codec: TableCodec) -> Scaler:
    values = codec.columns[0].values
    assert isinstance(values, Number)
    assert values.value.scaler is not None
    return values.value.scaler


def skewed(rows: int = 800) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "normal": random.normal(1e3, 2, rows),
        "lognormal": random.lognormal(0, 1.5, rows),
        "cauchy": random.standard_cauchy(rows),
        "counts": random.poisson(3, rows),
        "rare": (random.random(rows) < 0.02).astype(np.int8),
        "price": np.round(random.lognormal(3, 1, rows), 2),
        "single": random.normal(size=rows).astype(np.float32),
    }


@st.composite
def integer_columns(draw: st.DrawFn) -> pa.Array:
    kind = draw(st.sampled_from(INTEGERS))
    limits = np.iinfo(kind)
    # float32 tells 2²⁴ values apart, so a span of 2²¹ leaves a rounding error well below a half.
    low = draw(st.integers(max(limits.min, -(2**51)), min(limits.max, 2**51 - 2**21) - 1))
    high = min(limits.max, low + 2**21)
    values = draw(st.lists(st.integers(low, high), min_size=2, max_size=30).filter(lambda v: min(v) < max(v)))
    return pa.array(values, kind)


@quick
@given(column=integer_columns())
def test_law_integers_of_every_type_come_back_exactly(column: pa.Array) -> None:
    data = table(n=column)
    codec = TableCodec.fit(data)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)


@quick
@given(
    thousandths=st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=30).filter(lambda v: min(v) < max(v)),
    decimals=st.integers(0, 3),
)
def test_law_decimals_come_back_exactly(thousandths: list[int], decimals: int) -> None:
    data = table(x=np.array(thousandths, dtype=np.float64) / 10**decimals)
    codec = TableCodec.fit(data)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("shape", ["normal", "lognormal", "cauchy"])
def test_law_continuous_values_come_back_to_the_rounding_of_float32(shape: str, kind: str) -> None:
    data = table(x=pa.array(skewed()[shape]).cast(kind))
    codec = TableCodec.fit(data)
    back = codec.decode(codec.encode(data))
    assert back.columns.schema == data.columns.schema
    values = data.columns["x"].to_numpy().astype(np.float64)
    # A rounding of the encoded value, 6·10⁻⁸ of at most 8, is worth the steepest slope of the two segments beside it.
    spread = np.sort(values)
    gap = np.maximum(np.diff(spread, prepend=spread[0]), np.diff(spread, append=spread[-1]))
    gap = gap[np.argsort(np.argsort(values))]
    error = np.abs(back.columns["x"].to_numpy().astype(np.float64) - values)
    assert (error <= 1e-6 * (np.abs(values) + values.std() * (shape == "normal") + 100 * gap)).all()


def test_law_every_column_and_type_at_once_and_again_after_json() -> None:
    data = table(**skewed(), fixed=np.full(800, 7, np.uint16), half=np.full(800, 0.5))
    codec = TableCodec.fit(data)
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert again == codec
    x = codec.encode(data)
    assert torch.equal(again.encode(data), x)
    assert x.dtype == torch.float32
    # Two of the nine columns are constant, and two are of few names, each one number short of as many.
    names = sum(len(data.columns[name].unique()) - 1 for name in ("counts", "rare"))
    assert (*x.shape,) == (800, *codec.shape) == (800, 5 + names)
    assert x.isfinite().all()
    back = again.decode(x)
    assert isinstance(back, Table)
    assert back.columns.equals(codec.decode(x).columns)
    assert back.columns.schema == data.columns.schema
    for name in ("counts", "rare", "fixed", "half"):
        assert back.columns[name].equals(data.columns[name])


def test_samples_keep_types_range_and_constants_wherever_they_fall() -> None:
    data = table(**skewed(), fixed=np.full(800, 7, np.uint16), byte=np.arange(800, dtype=np.uint8))
    codec = TableCodec.fit(data)
    far = 20 * torch.randn((500, *codec.shape), generator=torch.Generator().manual_seed(0))
    drawn = codec.decode(far).columns
    assert drawn.schema == data.columns.schema
    for name in ("counts", "rare", "byte"):
        values, seen = drawn[name].to_numpy(), data.columns[name].to_numpy()
        assert values.min() == seen.min()
        assert values.max() == seen.max()
    assert set(drawn["fixed"].to_pylist()) == {7}
    cents = drawn["price"].to_numpy()
    np.testing.assert_array_equal(cents, np.round(cents, 2))


@pytest.mark.parametrize("name", ["lognormal", "cauchy", "normal"])
def test_law_log_jacobian_is_the_slope_of_encode(name: str) -> None:
    values = skewed()[name]
    codec = TableCodec.fit(table(x=values))
    knots = np.unique(values)
    inside = (knots[1:] + knots[:-1])[20:-20] / 2
    step = np.diff(knots)[20:-20] / 8
    # The scaler is measured in float64: float32 would leave no digits in a difference this small.
    scaler = scaler_of(codec)
    up, down = (scaler.forward(torch.from_numpy(inside + sign * step)) for sign in (1, -1))
    slope = ((up - down) / torch.from_numpy(2 * step)).log()
    torch.testing.assert_close(codec.spread(table(x=inside))[1], slope, rtol=0, atol=1e-5)


def test_law_log_jacobian_of_rounded_values_is_the_mean_slope_of_their_bins() -> None:
    values = skewed()["price"]
    codec = TableCodec.fit(table(x=values))
    ends = [scaler_of(codec).forward(torch.from_numpy(values) + side * 0.005) for side in (1, -1)]
    torch.testing.assert_close(codec.spread(table(x=values))[1], ((ends[0] - ends[1]) / 0.01).log())


def test_law_log_jacobian_of_a_row_is_the_sum_over_its_columns() -> None:
    columns = skewed()
    alone = sum(TableCodec.fit(table(x=c)).spread(table(x=c))[1] for c in columns.values())
    together = TableCodec.fit(table(**columns)).spread(table(**columns))[1]
    torch.testing.assert_close(together, alone)


def test_scale_moves_the_log_jacobian_and_nothing_else() -> None:
    values = skewed()["normal"]
    metres, millimetres = table(x=values), table(x=1000 * values)
    first, second = TableCodec.fit(metres), TableCodec.fit(millimetres)
    torch.testing.assert_close(first.encode(metres), second.encode(millimetres))
    difference = first.spread(metres)[1] - second.spread(millimetres)[1]
    torch.testing.assert_close(difference, torch.full((800,), np.log(1000), dtype=torch.float64))


# -- columns of any kind beside each other ----------------------------------------------------------------------------


def cells_of(rows: int) -> st.SearchStrategy[pa.Array]:
    """A column of any kind, of values that repeat or not, with missing cells anywhere, or of one value only."""

    def column(values: st.SearchStrategy[Any], kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
        pool = st.lists(values, min_size=1, max_size=rows)
        cells = pool.flatmap(lambda p: st.lists(st.sampled_from([*p, None]), min_size=rows, max_size=rows))
        full = pool.flatmap(lambda p: st.lists(st.sampled_from(p), min_size=rows, max_size=rows))
        return st.one_of(cells, full).map(lambda found: pa.array(found, kind))

    units, zones = st.sampled_from(["s", "ms", "us", "ns"]), st.sampled_from([None, "UTC", "America/New_York"])
    times = st.tuples(units, zones).flatmap(
        lambda form: column(
            st.integers(-(10**9), 2 * 10**9).map(
                lambda s: s * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[form[0]]
            ),
            pa.timestamp(*form),
        )
    )
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    return st.one_of(
        column(st.integers(-50, 50), pa.int8()),
        column(st.integers(0, 2**20), pa.uint32()),
        column(st.integers(-(10**5), 10**5).map(lambda n: n / 100), pa.float64()),
        column(text, pa.string()),
        column(st.booleans(), pa.bool_()),
        column(st.dates(), pa.date32()),
        times,
        st.just(pa.nulls(rows)),
        st.just(pa.nulls(rows, pa.string())),
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of several columns, one of which surely varies."""
    rows = draw(st.integers(2, 30))
    found = {f"c{place}": draw(cells_of(rows)) for place in range(draw(st.integers(1, 4)))}
    return table(always=["left", "right"] * (rows // 2) + ["left"] * (rows % 2), **found)


@settings(max_examples=100, deadline=None)
@given(data=tables(), seed=st.integers(0, 99))
def test_law_tables_of_any_columns_come_back_wherever_they_stand_in_their_cells(data: Table, seed: int) -> None:
    codec = TableCodec.fit(data)
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert again == codec
    expected = data.columns.select(list(codec.names))
    # Of a normal all but the far tails, which reach other names; of a bin all but the edge.
    z = Stream(seed, "z").normal(len(data), codec.shape).double().clamp(-4, 4)
    for u in (None, torch.special.ndtr(z)):
        x, jacobian = again.spread(data, u)
        assert (x.shape, jacobian.shape) == ((len(data), *codec.shape), (len(data),))
        assert x.isfinite().all()
        assert jacobian.isfinite().all()
        assert again.decode(x).columns.equals(expected)
    assert again.decode(codec.encode(data)).columns.equals(expected)
    low, high = codec.bounds
    assert ((low - 1e-5 <= codec.encode(data)) & (codec.encode(data) <= high + 1e-5)).all()
    assert again.unusable(data) == {}
    assert len(codec.describe()) == data.columns.num_columns


@settings(max_examples=50, deadline=None)
@given(data=tables(), seed=st.integers(0, 99))
def test_law_samples_have_names_ranges_and_types_of_the_data_wherever_they_fall(data: Table, seed: int) -> None:
    codec = TableCodec.fit(data)
    drawn = codec.decode(4 * Stream(seed, "x").normal(50, codec.shape)).columns
    for name in codec.names:
        seen, found = data.columns[name], drawn[name]
        assert found.type == seen.type
        assert seen.null_count or not found.null_count
        if pa.types.is_string(seen.type) or pa.types.is_boolean(seen.type):
            assert set(found.drop_null().to_pylist()) <= set(seen.to_pylist())
        elif not pa.types.is_timestamp(seen.type) and len(found.drop_null()):
            ends, drawn_ends = pc.min_max(seen).as_py(), pc.min_max(found).as_py()
            assert ends["min"] <= drawn_ends["min"] <= drawn_ends["max"] <= ends["max"]


@settings(max_examples=50, deadline=None)
@given(data=tables(), seed=st.integers(0, 99))
def test_law_the_log_jacobian_is_that_of_autograd_for_any_columns(data: Table, seed: int) -> None:
    """Integers, days and seconds have bins of one, so that it is Σ log dx/du; planted: a column that weighs twice."""
    kinds = {field.name: field.type for field in data.columns.schema}
    whole = Table(data.columns.select([name for name, kind in kinds.items() if not pa.types.is_floating(kind)]))
    codec = TableCodec.fit(whole)
    u = (0.01 + 0.98 * Stream(seed, "u").uniform(len(data), codec.shape)).requires_grad_()
    x, jacobian = codec.spread(whole, u)
    (slopes,) = torch.autograd.grad(x.sum(), u)
    torch.testing.assert_close(jacobian, slopes.log().sum(1), rtol=1e-9, atol=1e-9)


def half_seen() -> Table:
    return table(
        x=pa.array([None if row % 4 == 1 else row / 7 for row in range(40)]),
        n=pa.array([None if row % 4 == 0 else 3 * row // 2 for row in range(40)]),
        kind=pa.array(["oak", "elm", None, "ash"] * 10),
        full=pa.array(np.arange(40) / 7),
        day=pa.array([7, 9, None, 13] * 10, pa.date32()),
        fixed=pa.array([7] * 40),
    )


def test_rows_to_fill_know_what_is_seen_and_that_nothing_is_missing() -> None:
    codec = TableCodec.fit(half_seen())
    assert codec.shape == (2 + 2 + 3 + 1 + 2,)
    cells, known = codec.to_fill(half_seen())
    assert cells.centre.shape == known.shape == (40, 10)
    holes = {name: torch.tensor(half_seen().columns[name].is_null().to_pylist()) for name in ("x", "n", "kind", "day")}
    for name in ("x", "n", "kind", "day"):
        place = codec.place(name)
        # The flag is known, and says that the cell is there; the value is known where it was seen.
        assert known[:, place.start].all()
        assert (known[:, place.start + 1 : place.stop] == ~holes[name].unsqueeze(1)).all()
    assert known[:, codec.place("full")].all()
    filled = codec.decode(cells.at(None)[0]).columns
    assert not any(column.null_count for column in filled.columns)
    for name, hole in holes.items():
        for row in np.flatnonzero(~hole.numpy()):
            there, was = filled[name][row].as_py(), half_seen().columns[name][row].as_py()
            assert there == (pytest.approx(was, abs=1e-12) if name == "x" else was)
    # What is known of the values stands where it stands in any row; flags are moved to say that the cell is there.
    known[:, [codec.place(name).start for name in holes]] = False
    torch.testing.assert_close(cells.centre[known].float(), codec.encode(half_seen())[known])


def test_a_hole_can_be_filled_where_there_never_was_one_and_never_has_a_density() -> None:
    codec = TableCodec.fit(table(a=[1.0, 2.0, 4.0], b=["u", "v", "u"], unit=[7, 7, 7]))
    holes = table(a=pa.array([None, 2.0]), b=pa.array(["v", None]), unit=pa.array([7, None], pa.int64()))
    cells, known = codec.to_fill(holes)
    assert known.tolist() == [[False, True], [True, False]]
    assert cells.centre[0, 1] == codec.encode(table(a=[1.0], b=["v"], unit=[7]))[0, 1]
    # Holes of a column that is nothing but holes have no type.
    nothing = table(a=pa.nulls(2), b=pa.nulls(2), unit=pa.array([7, 7]))
    assert not codec.to_fill(nothing)[1].any()
    assert codec.unusable(holes) == {
        0: "column 'a' is missing, which it never was in training",
        1: "column 'b' is missing, which it never was in training",
    }
    with pytest.raises(DataError, match=r"data row 1: column 'b' was never 'w' in training, known are u, v"):
        codec.check_seen(table(a=pa.array([None]), b=["w"], unit=[7]))


CONSTANTS: dict[str, tuple[pa.Array, pa.Array, str]] = {
    "integer": (pa.array([-5], pa.int16()), pa.array([6], pa.int16()), "-5"),
    "largest": (pa.array([2**64 - 1], pa.uint64()), pa.array([2**64 - 2], pa.uint64()), str(2**64 - 1)),
    "float": (pa.array([0.1 + 0.2]), pa.array([0.3]), "0.30000000000000004"),
    "single": (pa.array([0.1], pa.float32()), pa.array([0.2], pa.float32()), "0.1"),
    "half": (pa.array([0.5], pa.float16()), pa.array([0.25], pa.float16()), "0.5"),
    "text": (pa.array([' a,\n"é']), pa.array(["a"]), ' a,\n"é'),
    "empty": (pa.array([""]), pa.array(["a"]), ""),
    "truth": (pa.array([True]), pa.array([False]), "true"),
    "date": (pa.array([18_321], pa.date32()), pa.array([18_322], pa.date32()), "2020-02-29"),
    "time": (pa.array([-1], pa.timestamp("us")), pa.array([0], pa.timestamp("us")), "1969-12-31 23:59:59.999999"),
    "zone": (
        pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([2], pa.timestamp("ns", "Europe/Berlin")),
        "1970-01-01 01:00:00.000000001+0100",
    ),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_law_constants_of_every_type_are_put_back_and_no_other_value_has_a_density(kind: str) -> None:
    value, other, words = CONSTANTS[kind]
    data = table(x=[1.0, 2.5, 4.0], c=value.take(pa.array([0, 0, 0])))
    codec = codec_from_json(json.loads(json.dumps(TableCodec.fit(data).to_json())))
    assert isinstance(codec, TableCodec)
    assert codec.shape == (1,)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)
    found = codec.unusable(table(x=[1.0, 2.0, 3.0], c=pa.concat_arrays([value, other, pa.nulls(1, value.type)])))
    assert list(found) == [1, 2]
    assert f"which was always {words} in training: no density is known for another value" in found[1]
    assert "is missing" in found[2]


def test_a_column_that_was_missing_throughout_is_so_in_samples_and_has_no_density_elsewhere() -> None:
    for kind in (pa.null(), pa.int8(), pa.string(), pa.timestamp("s", "UTC")):
        data = table(x=[1.0, 2.5], gone=pa.nulls(2, kind))
        codec = TableCodec.fit(data)
        assert codec.decode(codec.encode(data)).columns.equals(data.columns)
        assert codec.unusable(table(x=[1.0, 1.0], gone=pa.array([None, "here"]))) == {
            1: "column 'gone' is there, which it never was in training"
        }


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_table_without_any_variation_is_refused() -> None:
    with pytest.raises(DataError, match="no column varies"):
        TableCodec.fit(table(a=[1, 1], b=[0.5, 0.5]))


def test_constant_columns_are_said() -> None:
    codec = TableCodec.fit(table(a=[1, 2], unit=[9, 9]))
    assert codec.notes == ("column unit: constant 9, put back as it is",)
    assert codec.describe()[1] == "unit: constant 9, put back as it is"


@pytest.mark.parametrize("value", [2**51 + 1, -(2**51) - 1])
def test_integers_that_float64_cannot_tell_apart_are_left_out(value: int) -> None:
    codec = TableCodec.fit(table(id=[0, value], x=[1.0, 2.0]))
    assert codec.names == ("x",)
    assert "whole numbers up to 2251799813685249 cannot be told apart" in codec.notes[0]
    assert TableCodec.fit(table(id=[0, value - value // abs(value)])).shape == (1,)
    with pytest.raises(DataError, match=r"'id'.*2251799813685249.*--columns"):
        TableCodec.fit(table(id=[0, value], x=[1.0, 2.0]), {"id": "number"})


@pytest.mark.parametrize("span", [1e-200, 5e-324])
def test_a_span_whose_square_vanishes_is_refused_and_a_small_one_is_not(span: float) -> None:
    with pytest.raises(DataError, match=r"'x' spans only"):
        TableCodec.fit(table(x=[0.0, span, span]))
    small = table(x=[0.0, 1e-40, 3e-40])
    codec = TableCodec.fit(small)
    np.testing.assert_allclose(codec.decode(codec.encode(small)).columns["x"].to_numpy(), [0, 1e-40, 3e-40], atol=1e-46)


def test_data_of_another_form_is_refused_with_the_difference() -> None:
    codec = TableCodec.fit(table(a=[1.0, 2.0], b=[3.0, 5.0]))
    with pytest.raises(DataError, match=r"columns \['b'\] are missing"):
        codec.encode(table(a=[1.0, 2.0], c=[3.0, 5.0]))
    with pytest.raises(DataError, match="trained on a table, got array"):
        codec.encode(Array(np.zeros((2, 2))))
    with pytest.raises(DataError, match="'b' holds string"):
        codec.encode(table(a=[1.0, 2.0], b=["x", "y"]))


def test_columns_are_found_by_name_in_any_order() -> None:
    data = table(a=[1.0, 2.0], b=[3.0, 5.0])
    codec = TableCodec.fit(data)
    assert torch.equal(codec.encode(table(b=[3.0, 5.0], a=[1.0, 2.0])), codec.encode(data))


def test_a_codec_of_unknown_kind_is_refused() -> None:
    with pytest.raises(BundleError, match="unknown kind 'video'"):
        codec_from_json({"kind": "video"})


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1.0, 2.0]},  # two rows
        {"a": [1.0, 1.0, 1.0, 2.0, 2.0]},  # duplicates
        {"a": [1.0, 2.0, 4.0], "b": [2.0, 4.0, 8.0]},  # collinear
        {"a": [1, 1, 1, 1, 1, 1, 1, 1, 1, 200]},  # all but one equal
    ],
)
def test_poor_data_still_has_a_finite_code(columns: dict[str, list[float]]) -> None:
    data = table(**columns)
    codec = fit_codec(data)
    x = codec.encode(data)
    assert x.isfinite().all()
    assert (x.std(0, correction=0) > 0).all()
    assert codec.spread(data)[1].isfinite().all()
    back = codec.decode(x)
    assert isinstance(back, Table)
    assert back.columns.equals(data.columns)
