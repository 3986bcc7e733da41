"""Columns of numbers: large ones are fitted to a part, decimals come back, bounds, values spread within their bins."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from scorefield.codecs import numeric
from scorefield.codecs.choose import fit_codec
from scorefield.codecs.numeric import NumericColumn
from scorefield.codecs.table import TableCodec
from scorefield.data import Array, Data, Images, Table
from scorefield.errors import OptionError
from scorefield.randomness import Stream


def drawn(mean: float, std: float, dtype: str, rows: int = 5000) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, std, rows).astype(dtype)


def test_a_large_column_is_fitted_to_random_values_and_its_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and deviation within 4 standard errors; the planted bug, the first values only, misses by far."""
    values = np.sort(drawn(3, 2, "float32", 200_000))
    monkeypatch.setattr(numeric, "_MEASURED", 10_000)
    scaler = NumericColumn.fit("x", values).scaler
    assert scaler is not None
    scaled = scaler.forward(torch.from_numpy(values).double())
    assert abs(float(scaled.mean())) < 4 / 100
    assert abs(float(scaled.std()) - 1) < 4 / 140
    assert float(scaled.max()) > 3.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decimals", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("offset", [0, 5, -50])
def test_law_digits_of_rounded_values_come_back(offset: float, decimals: int, dtype: str) -> None:
    values = np.round(drawn(offset, 1, "float64", 150), decimals).astype(dtype)
    column = NumericColumn.fit("x", values)
    assert column.scaler is not None
    back = column.decode(column.scaler.forward(torch.from_numpy(values.astype(np.float64))).float())
    np.testing.assert_array_equal(back.astype(dtype), values)


@pytest.mark.parametrize("values", [[0.0, 3.0, -2.0, 1.5], [1, 2, 3, 400]])
def test_the_bounds_are_those_of_the_encoded_values(values: list[float]) -> None:
    columns = [NumericColumn.fit(name, np.array(v)) for name, v in (("a", values), ("same", [7] * 4), ("b", values))]
    low, high = numeric.spans(columns)
    assert low.shape == high.shape == (2,)
    for column, smallest, largest in zip(columns[::2], low, high, strict=True):
        assert column.scaler is not None
        encoded = column.scaler.forward(torch.tensor(values, dtype=torch.float64)).float()
        assert (smallest, largest) == (encoded.min(), encoded.max())


# -- values spread within their bins ----------------------------------------------------------------------------------


def some() -> dict[str, Data]:
    random = np.random.default_rng(3)
    columns = {
        "tenths": np.round(random.normal(3, 2, 60), 1),
        "counts": random.poisson(4, 60),
        "skewed": np.round(random.lognormal(0, 2, 60), 2),
        "moved": 0.5 * random.integers(0, 40, 60) - 1.37,
        "same": np.full(60, 4),
    }
    pixels = random.integers(0, 16, (60, 3, 4, 2), endpoint=True).astype(np.uint8)
    return {
        "table": Table(pa.table(columns)),
        "vectors": Array(np.stack([columns["tenths"], columns["same"], columns["moved"]], axis=1)),
        "fields": Array(random.integers(-50, 50, (60, 5, 6, 3))),
        "images": Images(pixels, "LA", maximum=16),
    }


@pytest.mark.parametrize("kind", ["table", "vectors", "fields", "images"])
def test_law_values_spread_within_their_bins_decode_to_themselves(kind: str) -> None:
    data = some()[kind]
    codec = fit_codec(data)
    middle = torch.full((60, *codec.shape), 0.5)
    for u in (None, middle):
        torch.testing.assert_close(codec.spread(data, u)[0].float(), codec.encode(data), rtol=1e-6, atol=1e-6)
    u = 0.005 + 0.99 * Stream(0, "test").uniform(60, codec.shape)
    x, jacobian = codec.spread(data, u)
    assert (x.dtype, jacobian.dtype, jacobian.shape) == (torch.float64, torch.float64, (60,))
    assert (x != codec.spread(data)[0]).any(0).all()
    back = codec.decode(x)
    if isinstance(data, Table) and isinstance(back, Table):
        # "moved" has an offset: its points come out as their clean decimals.
        for name in data.columns.column_names:
            np.testing.assert_allclose(back.columns[name].to_numpy(), data.columns[name].to_numpy(), atol=1e-9)
    elif isinstance(data, Images) and isinstance(back, Images):
        np.testing.assert_array_equal(back.pixels, data.pixels)
    elif isinstance(data, Array) and isinstance(back, Array):
        np.testing.assert_allclose(back.values, data.values, atol=1e-9)


@pytest.mark.parametrize("kind", ["table", "vectors", "fields", "images"])
def test_law_the_log_jacobian_is_that_of_autograd_at_the_moved_values(kind: str) -> None:
    """dx/du is ∂encode/∂data times the width of each bin; planted bug: the slope at the bin's middle.

    Numbers of a table are spread evenly over the encoded bin, so that there the slope is one for the whole bin.
    """
    data = some()[kind].rows(np.arange(6))
    codec = fit_codec(some()[kind])
    u = Stream(0, "test").uniform(6, codec.shape).requires_grad_()
    x, jacobian = codec.spread(data, u)
    (slopes,) = torch.autograd.grad(x.sum(), u)
    volumes = slopes.log().flatten(1).sum(1)
    torch.testing.assert_close(jacobian + codec.numbers.log_width.sum(), volumes, rtol=1e-9, atol=1e-9)
    if isinstance(codec, TableCodec) and isinstance(data, Table):
        assert torch.equal(codec.spread(data)[1], jacobian)


def test_continuous_columns_stay_where_they_are() -> None:
    whole = np.arange(50) // 2 * 2
    data = Table(pa.table({"whole": whole, "free": drawn(0, 1, "float64", 50)}))
    codec = fit_codec(data)
    assert codec.numbers.gridded.tolist() == [True, False]
    moved = codec.spread(data, torch.full((50, 2), 0.9))[0] - codec.spread(data)[0]
    assert (moved[:, 1] == 0).all()
    low, high = (codec.spread(data, torch.full((50, 2), u))[0][:, 0] for u in (0.0, 1.0))
    torch.testing.assert_close(moved[:, 0], 0.4 * (high - low))


def test_only_declared_integers_have_bits() -> None:
    for kind in ("fields", "images"):
        numbers = fit_codec(some()[kind]).numbers
        assert numbers.log_volume() == 0  # integers are one apart
        assert numbers.gridded.shape == numbers.log_width.shape == fit_codec(some()[kind]).shape
    with pytest.raises(OptionError, match=r"bits/dim is for integers.*'tenths', 'skewed', 'moved'"):
        fit_codec(some()["table"]).numbers.log_volume()
    with pytest.raises(OptionError, match="bits/dim"):
        fit_codec(some()["vectors"]).numbers.log_volume()


def test_a_grid_finer_than_the_data_need_comes_back_after_json() -> None:
    column = NumericColumn.fit("x", np.round(drawn(0, 1, "float64"), 3) - 0.12345)
    again = NumericColumn.from_json(json.loads(json.dumps(column.to_json())))
    assert again == column
    assert again.grid is not None
    assert again.grid.step == pytest.approx(1e-3)
    assert again.describe().startswith("x: ")
    assert "multiples of 0.001" in again.describe()
