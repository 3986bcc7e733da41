"""Columns of numbers: which decimals they have, seen through the grid of the floats themselves; large columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scorefield.codecs import numeric
from scorefield.codecs.numeric import NumericColumn, decimals_of


def drawn(mean: float, std: float, dtype: str, rows: int = 5000) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, std, rows).astype(dtype)


@pytest.mark.parametrize(
    ("mean", "std", "dtype"),
    [
        (1e6, 1, "float32"),
        (1e5, 0.1, "float32"),
        (1e7, 1, "float32"),  # every float32 up here is a whole number
        (1e30, 1e29, "float32"),
        (1e12, 1, "float64"),
        (1e16, 1, "float64"),
        (1000, 1, "float16"),
        (0, 1, "float32"),
        (0, 1e-3, "float64"),
    ],
)
def test_continuous_values_far_from_zero_are_not_taken_as_rounded(mean: float, std: float, dtype: str) -> None:
    assert decimals_of(drawn(mean, std, dtype)) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decimals", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("offset", [0, 5, -50])
def test_law_rounded_values_are_seen_in_every_type_and_their_digits_come_back(
    offset: float, decimals: int, dtype: str
) -> None:
    values = np.round(drawn(offset, 1, "float64", 150), decimals).astype(dtype)
    assert decimals_of(values) == decimals
    column = NumericColumn.fit("x", values)
    assert column.scaler is not None
    back = column.decode(column.scaler.forward(torch.from_numpy(values.astype(np.float64))).float())
    np.testing.assert_array_equal(back.astype(dtype), values)


def test_sums_of_tenths_are_tenths_though_no_float_is_exactly_one() -> None:
    values = 0.1 * np.arange(1, 60)  # 0.30000000000000004 among them
    assert decimals_of(values) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whole_numbers_as_floats_are_seen(dtype: str) -> None:
    assert decimals_of(np.arange(256).astype(dtype)) == 0


def test_few_values_are_not_enough_where_coincidence_is_likely() -> None:
    # Near 2²⁰ every eighth float32 is a whole number: three of them may be so by chance, forty are not.
    whole = 2.0**20 + np.arange(40)
    assert decimals_of(whole[:3].astype(np.float32)) is None
    assert decimals_of(whole.astype(np.float32)) == 0
    assert decimals_of(np.array([1.5, 2.0, 2.0])) == 1  # in float64 two are


def test_a_value_off_the_grid_is_found_behind_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(5000) / 10
    monkeypatch.setattr(numeric, "_CHUNK", 512)
    assert decimals_of(values) == 1
    values[4321] += 0.012345678
    assert decimals_of(values) is None


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


@pytest.mark.parametrize("values", [[0.0, 3.0, -2.0, 1.5], [1, 2, 3, 400]])
def test_the_bounds_are_those_of_the_encoded_values(values: list[float]) -> None:
    columns = [NumericColumn.fit(name, np.array(v)) for name, v in (("a", values), ("same", [7] * 4), ("b", values))]
    low, high = numeric.spans(columns)
    assert low.shape == high.shape == (2,)
    for column, smallest, largest in zip(columns[::2], low, high, strict=True):
        assert column.scaler is not None
        encoded = column.scaler.forward(torch.tensor(values, dtype=torch.float64)).float()
        assert (smallest, largest) == (encoded.min(), encoded.max())
