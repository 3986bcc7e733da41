"""Names, ordered or not: there and back, their probability under a known density, and refusals that list them."""

from __future__ import annotations

import json
import math
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from scorefield.codecs.choose import codec_from_json
from scorefield.codecs.table import TableCodec
from scorefield.codecs.vertices import BLUR
from scorefield.data import Table
from scorefield.errors import DataError
from scorefield.randomness import Stream

NAMES: dict[str, list[Any]] = {
    "text": ["oak", "elm", "", "weiß", "日本", 'a,"b"\n', " oak"],
    "truth": [True, False],
    "integers": [-3, 0, 7, 2**60 + 1],
    "floats": [0.1, -2.5, 1e-7],
    "dates": [date(2020, 2, 29), date(1, 1, 1), date(9999, 12, 31)],
}


def column(values: list[Any], kind: pa.DataType | None = None) -> Table:
    return Table(pa.table({"c": pa.array(values, kind)}), source="t.csv")


def fitted(data: Table, asked: str = "category") -> TableCodec:
    """After JSON."""
    codec = TableCodec.fit(data, {"c": asked})
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert isinstance(again, TableCodec)
    assert again == codec
    return again


def normal(x: Tensor, mean: Tensor, deviation: float) -> Tensor:
    """The density (m,) of x (m, d)."""
    z = (x - mean) / deviation
    return (-(z.square() + math.log(2 * math.pi)) / 2 - math.log(deviation)).sum(1).exp()


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("missing", [0, 4])
def test_law_names_of_every_type_come_back_wherever_they_stand_in_their_cells(kind: str, missing: int) -> None:
    data = column([*NAMES[kind] * 20, *[None] * missing])
    codec = fitted(data)
    assert codec.shape == (len(NAMES[kind]) - 1 + (missing > 0),)
    for step in range(5):
        # All but the far tails of a normal, which reach other vertices.
        z = Stream(0, "z").normal(len(data), codec.shape, step=step).double().clamp(-4, 4)
        x, _ = codec.spread(data, torch.special.ndtr(z))
        assert codec.decode(x).columns.equals(data.columns)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)


@pytest.mark.parametrize("kind", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_law_times_can_be_names(kind: str, zone: str | None) -> None:
    data = column([-(10**9) - 7, 5, 10**8, None] * 9, pa.timestamp(kind, zone))
    codec = fitted(data)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)


def test_very_many_names_are_corners_of_a_cube_and_samples_are_always_names() -> None:
    names = [f"town {k}" for k in range(200)]
    data = column(names * 5)
    codec = fitted(data)
    assert codec.shape == (8,)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)
    assert codec.describe() == ["c: 200 names (" + ", ".join(sorted(names)[:12]) + " and 188 more), as bits [as asked]"]
    anywhere = 3 * Stream(0, "x").normal(2000, codec.shape)
    assert set(codec.decode(anywhere).columns["c"].to_pylist()) <= set(names)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.08, 0.02), (0.4, 0.3, 0.2, 0.05, 0.05)])
@pytest.mark.parametrize("deviation", [BLUR, 0.15, 0.22])
def test_oracle_the_mean_over_a_cell_is_the_probability_of_its_name(
    weights: tuple[float, ...], deviation: float
) -> None:
    """A mixture of normals about the vertices: E_u[p(x(u)) e^jac] is its weight, and all of them add up to one.

    H₀ within 5 standard errors and 10⁻⁴ that lies nearer to another vertex: 30 comparisons, false alarm 10⁻⁵. Caught:
    a log-Jacobian without the deviation, or of another density than that which the offsets are drawn from.
    """
    count, draws = len(weights), 4000
    data = column([f"name {k}" for k in range(count)] * 20)
    codec = fitted(data)
    points = codec.encode(data)[:count].double()
    total = 0.0
    for place, weight in enumerate(weights):
        rows = data.rows(torch.full((draws,), place).numpy())
        x, jacobian = codec.spread(rows, Stream(place, "u").uniform(draws, codec.shape))
        density = torch.stack([w * normal(x, point, deviation) for w, point in zip(weights, points, strict=True)])
        found = density.sum(0) * jacobian.exp()
        error = float(found.std()) / draws**0.5
        assert abs(float(found.mean()) - weight) < 5 * error + 1e-4
        total += float(found.mean())
    assert total == pytest.approx(1, abs=0.05 if deviation != BLUR else 1e-3)


def test_unseen_names_are_refused_with_those_that_are_known() -> None:
    codec = fitted(column([f"n{k:02d}" for k in range(15)] * 3))
    wrong = column(["n00", "n99", "n01", None])
    found = codec.unusable(wrong)
    known = ", ".join(f"n{k:02d}" for k in range(12)) + " and 3 more"
    assert found == {
        1: f"column 'c' was never 'n99' in training, known are {known}",
        3: "column 'c' is missing, which it never was in training",
    }
    with pytest.raises(DataError, match=r"t.csv: data row 2: column 'c' was never 'n99' in training, known are n00"):
        codec.spread(wrong)
    dates = fitted(column([date(2020, 1, 1), date(2020, 1, 2)] * 9))
    assert dates.unusable(column([date(2020, 1, 3)])) == {
        0: "column 'c' was never '2020-01-03' in training, known are 2020-01-01, 2020-01-02"
    }


def test_minus_zero_is_zero() -> None:
    codec = fitted(column([0.0, 1.5] * 20))
    assert codec.unusable(column([-0.0])) == {}
    assert codec.shape == fitted(column([0.0, -0.0, 1.5] * 20)).shape == (1,)


def test_names_stored_as_another_type_are_those_that_they_can_be_read_as() -> None:
    codec = fitted(column([1, 2, 3] * 20))
    assert torch.equal(codec.encode(column([1.0, 3.0])), codec.encode(column([1, 3])))
    assert torch.equal(codec.encode(column(["1", "3"])), codec.encode(column([1, 3])))
    with pytest.raises(DataError, match=r"t.csv: column 'c' holds string, the model was trained with int64"):
        codec.encode(column(["one"]))


# -- in an order ------------------------------------------------------------------------------------------------------

GRADES = ["low", "middle", "high"]


def test_law_ordered_names_are_one_growing_number_and_come_back() -> None:
    data = column([*GRADES * 20, "low", None])
    codec = fitted(data, "ordered:low<middle<high")
    x = codec.encode(data)
    assert codec.shape == (2,)
    assert (x[:3, 1].diff() > 0).all()
    u = Stream(0, "u").uniform(len(data), codec.shape).clamp(1e-4, 1 - 1e-4)
    assert codec.decode(codec.spread(data, u)[0]).columns.equals(data.columns)
    assert "3 names in order, low < middle < high" in codec.describe()[0]


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([1, 2, 5], "5<1<2"),
        ([True, False], "true<false"),
        ([0.5, -1.5], "0.5<-1.5"),
        ([date(2020, 1, 5), date(2020, 1, 9)], "2020-01-09<2020-01-05"),
    ],
)
def test_law_an_order_holds_values_of_any_type(values: list[Any], order: str) -> None:
    data = column(values * 15)
    codec = fitted(data, f"ordered:{order}")
    assert codec.shape == (1,)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)


def test_oracle_ordered_names_have_the_probability_of_their_bins() -> None:
    """Under a density that is even over all three bins each name has its bin's share of them, and all have one."""
    data = column(GRADES * 20)
    codec = fitted(data, "ordered:low<middle<high")
    ends, draws = [], torch.linspace(0, 1, 50, dtype=torch.float64)
    for u in (0.0, 1.0):
        ends.append(codec.spread(data, torch.full((60, 1), u))[0])
    even = 1 / float(ends[1].max() - ends[0].min())
    total = 0.0
    for row in range(3):
        rows = data.rows(torch.full((50,), row).numpy())
        _, jacobian = codec.spread(rows, draws.unsqueeze(1))
        share = even * float(ends[1][row, 0] - ends[0][row, 0])
        torch.testing.assert_close(even * jacobian.exp(), torch.full((50,), share, dtype=torch.float64))
        total += share
    assert total == pytest.approx(1.0)


def test_names_of_an_order_that_never_came_have_a_place_but_are_not_drawn() -> None:
    data = column(["low", "high"] * 30)
    codec = fitted(data, "ordered:low<middle<high<extreme")
    anywhere = 9 * Stream(0, "x").normal(500, codec.shape)
    assert set(codec.decode(anywhere).columns["c"].to_pylist()) == {"low", "middle", "high"}
    middle, ends = codec.encode(column(["middle"])), codec.encode(column(["low", "high"]))
    assert float(ends[0]) < float(middle) < float(ends[1])
    assert "was never 'huge' in training" in codec.unusable(column(["huge"]))[0]
