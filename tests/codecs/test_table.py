"""Tables there and back: values, types and constants kept, log-Jacobian against derivatives, refusals by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
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
    low = draw(st.integers(max(limits.min, -(2**52)), min(limits.max, 2**52) - 1))
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


def test_resolution_is_the_step_of_encoded_values() -> None:
    data = table(n=np.random.default_rng(0).integers(0, 40, 500))
    codec = TableCodec.fit(data)
    steps = codec.encode(data)[:, 0].double().unique().diff()
    assert codec.resolution == pytest.approx(float(steps.min()), rel=1e-4)
    assert TableCodec.fit(table(n=data.columns["n"].to_numpy(), x=skewed(500)["normal"])).resolution is None


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_table_without_any_variation_is_refused() -> None:
    with pytest.raises(DataError, match="no column varies"):
        TableCodec.fit(table(a=[1, 1], b=[0.5, 0.5]))


def test_constant_columns_are_said() -> None:
    codec = TableCodec.fit(table(a=[1, 2], unit=[9, 9]))
    assert codec.notes == ("column unit: constant 9, put back as it is",)
    assert codec.describe()[1] == "unit: constant 9, put back as it is"


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1])
def test_integers_that_float64_cannot_tell_apart_are_left_out(value: int) -> None:
    codec = TableCodec.fit(table(id=[0, value], x=[1.0, 2.0]))
    assert codec.names == ("x",)
    assert "whole numbers up to 9007199254740993 cannot be told apart" in codec.notes[0]
    assert TableCodec.fit(table(id=[0, value - value // abs(value)])).shape == (1,)
    with pytest.raises(DataError, match=r"'id'.*9007199254740993.*--columns"):
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
