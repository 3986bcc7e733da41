"""Columns of numbers with spikes: found where they are, vertices beside a free value, probabilities in closed form."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from scorefield.codecs.choose import codec_from_json
from scorefield.codecs.number import Number
from scorefield.codecs.table import TableCodec
from scorefield.codecs.vertices import BLUR
from scorefield.data import Table
from scorefield.randomness import Stream


def column(values: object) -> Table:
    return Table(pa.table({"c": pa.array(values)}), source="t.csv")


def spiky(rows: int, spikes: dict[float, float], seed: int = 0) -> np.ndarray:
    """Log-normal values, and each spike in this share of the rows exactly."""
    random = np.random.default_rng(seed)
    values = random.lognormal(3, 1, rows)
    start = 0
    for spike, share in spikes.items():
        values[start : start + round(share * rows)] = spike
        start += round(share * rows)
    return random.permutation(values)


def fitted(data: Table) -> TableCodec:
    """After JSON."""
    codec = TableCodec.fit(data)
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert isinstance(again, TableCodec)
    assert again == codec
    return again


def spikes_of(values: np.ndarray) -> tuple[float, ...]:
    return Number.fit("c", values).spikes


@pytest.mark.parametrize("rows", [250, 4000])
def test_values_of_a_fifth_of_all_rows_are_spikes(rows: int) -> None:
    assert spikes_of(spiky(rows, {0.0: 0.2})) == (0.0,)
    assert spikes_of(spiky(rows, {40.0: 0.3, 0.0: 0.25, 99.5: 0.2})) == (0.0, 40.0, 99.5)
    assert spikes_of(np.round(spiky(rows, {0.0: 0.5})).astype(np.int32)) == (0.0,)


def test_what_is_no_spike() -> None:
    assert spikes_of(spiky(4000, {0.0: 0.19})) == ()  # a few too few of them
    assert spikes_of(spiky(240, {0.0: 0.2})) == ()  # 48 rows, too few to learn from
    assert spikes_of(np.random.default_rng(0).normal(size=4000)) == ()
    assert spikes_of(np.random.default_rng(0).integers(0, 4, 4000)) == ()  # nothing is left beside them
    few = np.concatenate([np.zeros(200), np.arange(1.0, 10)])
    assert spikes_of(few) == ()
    assert spikes_of(np.concatenate([few, [10.0]])) == (0.0,)  # ten others make a distribution


def test_law_spiky_columns_come_back_wherever_they_stand_in_their_cells() -> None:
    for values in (np.round(spiky(600, {0.0: 0.4, 40.0: 0.2})).astype(np.int64), np.round(spiky(600, {0.0: 0.4}), 2)):
        data = column([None if row % 9 == 0 else value for row, value in enumerate(values.tolist())])
        codec = fitted(data)
        for step in range(4):
            z = Stream(0, "z").normal(600, codec.shape, step=step).double().clamp(-4, 4)
            assert codec.decode(codec.spread(data, torch.special.ndtr(z))[0]).columns.equals(data.columns)
        assert codec.decode(codec.encode(data)).columns.equals(data.columns)


def test_samples_stay_within_the_range_that_was_seen_and_have_every_spike() -> None:
    for values, spikes in ((spiky(600, {-9.0: 0.4, 40.0: 0.2}), {-9.0, 40.0}), (spiky(300, {}), set())):
        codec = fitted(column(values))
        anywhere = 5 * Stream(0, "x").normal(1000, codec.shape)
        drawn = codec.decode(anywhere).columns["c"].to_numpy()
        assert drawn.min() == values.min()
        assert drawn.max() == values.max()
        assert spikes <= set(drawn)


def test_the_bounds_hold_what_is_encoded() -> None:
    data = column([None if row % 9 == 0 else value for row, value in enumerate(spiky(600, {0.0: 0.4}).tolist())])
    codec = fitted(data)
    low, high = codec.bounds
    assert low.shape == high.shape == codec.shape == (3,)
    x = codec.encode(data)
    assert ((low <= x) & (x <= high)).all()


# -- probabilities ----------------------------------------------------------------------------------------------------

DRAWS = 2000


def normal(x: Tensor, mean: float, deviation: float = 1.0) -> Tensor:
    return (-((x - mean) / deviation).square() / 2).exp() / (deviation * math.sqrt(2 * math.pi))


def mean_and_error(codec: TableCodec, value: object, density: object, kind: pa.DataType) -> tuple[float, float]:
    """E_u[p(x(u)) e^jac] of a row with this value, and its standard error."""
    data = Table(pa.table({"c": pa.array([value] * DRAWS, kind)}))
    x, jacobian = codec.spread(data, Stream(0, "u").uniform(DRAWS, codec.shape))
    each = density(x) * jacobian.exp()  # type: ignore[operator]
    return float(each.mean()), float(each.std()) / DRAWS**0.5


def test_oracle_probabilities_of_a_spiky_integer_add_up_to_one() -> None:
    """Closed form: the spike at its vertex with 0.3, all else normal: each integer has the normal's mean over its bin.

    Deviations of the vertices are not those of the cells, so that the weights vary. Four standard errors; caught: a
    slope of the wrong width, a spike whose free value counts twice.
    """
    data = column([0] * 200 + [100 + k % 61 for k in range(300)])
    codec = fitted(data)
    assert codec.shape == (2,)
    at, beside = codec.encode(column([0]))[0, 0].item(), codec.encode(column([130]))[0, 0].item()
    assert {at, beside} == {-1.0, 1.0}

    def density(x: Tensor) -> Tensor:
        spike = 0.3 * normal(x[:, 0], at, 0.17) * normal(x[:, 1], 0)
        return spike + 0.7 * normal(x[:, 0], beside, 0.17) * normal(x[:, 1], 0)

    found, error = mean_and_error(codec, 0, density, pa.int64())
    assert abs(found - 0.3) < 4 * error + 1e-4
    # 130 is the mean of the others, which have a deviation of 17.6: 40 to 220 is five of them.
    each = [mean_and_error(codec, value, density, pa.int64()) for value in range(40, 221)]
    rest, error = sum(mean for mean, _ in each), sum(error for _, error in each)  # of the same offsets
    assert abs(rest - 0.7) < 4 * error + 1e-4
    assert error < 0.02


def test_oracle_probabilities_of_multiples_add_up_to_one() -> None:
    """As above, of a normal and of integers that are all 3 more than a multiple of seven.

    Four standard errors; caught: bins of width one, which hold a seventh.
    """
    values = 3 + 7 * np.round(np.random.default_rng(0).normal(0, 40, 900)).astype(int)
    codec = fitted(column(values.tolist()))
    means, errors = zip(
        *(
            mean_and_error(codec, value, lambda x: normal(x[:, 0], 0), pa.int64())
            for value in range(int(values.min()) - 70, int(values.max()) + 71, 7)
        ),
        strict=True,
    )
    width = float(codec.numbers.log_width.exp())
    assert width == pytest.approx(7)
    assert bool(codec.numbers.integer.all())
    assert abs(7 * sum(means) - 1) < 4 * 7 * sum(errors) + 1e-3
    drawn = codec.decode(torch.linspace(-4, 4, 700).reshape(-1, 1)).columns["c"].to_numpy()
    assert (drawn % 7 == 3).all()


def test_oracle_a_missing_cell_has_the_probability_of_its_flag_and_others_their_density() -> None:
    values = np.random.default_rng(0).normal(50, 4, 400)
    data = column([None if row % 4 == 0 else value for row, value in enumerate(values.tolist())])
    codec = fitted(data)
    there = float(codec.encode(column([50.0]))[0, 0])
    assert abs(there) == 1

    def density(x: Tensor) -> Tensor:
        missing = 0.25 * normal(x[:, 0], -there, BLUR) * normal(x[:, 1], 0, 1.1)
        return missing + 0.75 * normal(x[:, 0], there, BLUR) * normal(x[:, 1], 0)

    found, error = mean_and_error(codec, None, density, pa.float64())
    assert abs(found - 0.25) < 4 * error + 1e-4
    for value in (45.5, 50.0, 57.25):
        found, error = mean_and_error(codec, value, density, pa.float64())
        # The standard normal of the encoded column is this density in units of the data, by the slope of its scale.
        below, at, above = (codec.spread(column([value + step]))[0][0, 1] for step in (-1e-4, 0, 1e-4))
        truth = 0.75 * float(normal(at, 0) * (above - below)) / 2e-4
        assert abs(found / truth - 1) < 1e-3


def test_law_the_share_of_missing_cells_is_kept_and_said() -> None:
    data = column([None, 1.5, 2.25, 3.75, 8.5] * 40)
    codec = fitted(data)
    assert codec.columns[0].missing == pytest.approx(0.2)
    assert codec.decode(codec.encode(data)).columns["c"].null_count == 40
    assert "20.0% missing" in codec.describe()[0]
