"""Grids: steps and offsets are found through rounding of every kind, and never in continuous values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scorefield.codecs import grids
from scorefield.codecs.grids import WHOLE, Grid, grid_of, grid_of_integers


def drawn(mean: float, std: float, dtype: str = "float64", rows: int = 5000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, std, rows).astype(dtype)


def printed(values: np.ndarray, digits: int) -> np.ndarray:
    return np.array([float(f"{value:.{digits}g}") for value in values])


def step_of(values: np.ndarray) -> float | None:
    found = grid_of(values)
    return None if found is None else found.step


# -- continuous values ------------------------------------------------------------------------------------------------


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
        (0, 1e-200, "float64"),
    ],
)
@pytest.mark.parametrize("rows", [2, 3, 12, 5000])
def test_continuous_values_are_not_taken_as_rounded(mean: float, std: float, dtype: str, rows: int) -> None:
    assert grid_of(drawn(mean, std, dtype, rows)) is None


@pytest.mark.parametrize("rows", [3, 4, 6, 10, 30])
def test_statistics_few_continuous_values_are_hardly_ever_taken_as_rounded(rows: int) -> None:
    """The bound promises one in a million columns, so none of 300; the planted bug, no bound, takes many of three."""
    assert all(grid_of(drawn(0, 1, rows=rows, seed=seed)) is None for seed in range(300))
    # Printed with five digits all are decimals, and no coarser step may be seen in them.
    steps = [step_of(printed(drawn(0, 1, rows=rows, seed=seed), 5)) for seed in range(300)]
    assert all(step is None or step <= 1e-4 for step in steps)


def test_the_bound_is_what_keeps_few_values_from_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [printed(drawn(0, 1, rows=4, seed=seed), 3) for seed in range(200)]
    assert sum((step_of(column) or 0) > 0.02 for column in columns) == 0
    monkeypatch.setattr(grids, "_believed", lambda noise, step: True)
    assert sum((step_of(column) or 0) > 0.02 for column in columns) > 5


def test_values_that_do_not_vary_have_no_grid() -> None:
    assert grid_of(np.full(9, 2.5)) is None
    assert grid_of(np.array([2.5])) is None


# -- decimals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decimals", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("offset", [0, 5, -50])
def test_law_decimals_are_seen_in_every_type(offset: float, decimals: int, dtype: str) -> None:
    values = np.round(drawn(offset, 1, rows=150), decimals).astype(dtype)
    found = grid_of(values)
    assert found is not None
    assert (found.step, found.offset, found.decimals) == (10.0**-decimals, 0, decimals)
    np.testing.assert_array_equal(found.snap(values).astype(dtype), values)


@pytest.mark.parametrize("decimals", [-2, 7, 9])
def test_law_hundreds_and_many_decimals_are_seen(decimals: int) -> None:
    values = np.round(drawn(0, 3 * 10.0 ** (2 - decimals), rows=150), decimals)
    assert step_of(values) == pytest.approx(10.0**-decimals, rel=1e-12)


def test_sums_of_tenths_are_tenths_though_no_float_is_exactly_one() -> None:
    values = 0.1 * np.arange(1, 60)  # 0.30000000000000004 among them
    found = grid_of(values)
    assert found is not None
    assert found.step == 0.1
    np.testing.assert_array_equal(found.snap(values), np.arange(1, 60) / 10)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whole_numbers_as_floats_are_seen(dtype: str) -> None:
    assert grid_of(np.arange(256).astype(dtype)) == Grid(1.0, 0.0, 0)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_keep_the_step_one_whatever_they_are_multiples_of(dtype: str) -> None:
    assert step_of((10 * np.arange(20)).astype(dtype)) == 1


def test_the_step_of_whole_numbers_is_found_where_it_is_no_coincidence() -> None:
    random = np.random.default_rng(0)
    hundreds = 100 * random.integers(5, 900, 200) + 50
    assert grid_of_integers(hundreds) == Grid(100.0, 50.0, 0)
    assert grid_of_integers(-hundreds) == Grid(100.0, 50.0, 0)
    assert grid_of_integers(np.append(hundreds, 51)) == WHOLE
    assert grid_of_integers(hundreds[:5]) == WHOLE  # five numbers may all be hundreds by chance
    assert grid_of_integers(np.repeat([1, 3, 5], 20)) == Grid(2.0, 1.0, 0)  # three that come again and again are all
    assert grid_of_integers(np.array([7, 7], dtype=np.uint8)) == WHOLE
    # H₀: numbers of any kind are hardly ever all even. Caught: a step that one pair of differences shows.
    assert all(grid_of_integers(random.integers(0, 1000, rows)) == WHOLE for rows in range(2, 40) for _ in range(20))


def test_few_values_are_not_enough_where_coincidence_is_likely() -> None:
    # Near 2²⁰ every eighth float32 is a whole number: three of them may be so by chance, forty are not.
    whole = 2.0**20 + np.arange(40)
    assert grid_of(whole[:3].astype(np.float32)) is None
    assert step_of(whole.astype(np.float32)) == 1
    assert step_of(np.array([1.5, 2.0, 2.0])) == 0.1  # in float64 two are


def test_a_value_off_the_grid_is_found_behind_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(5000) / 10
    monkeypatch.setattr(grids, "_CHUNK", 512)
    assert step_of(values) == 0.1
    values[4321] += 0.012345678
    assert (step_of(values) or 0) < 1e-8


def test_a_value_off_the_grid_is_found_among_those_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "_SEARCHED", 500)
    values = (np.random.default_rng(0).integers(0, 300, 5000) - 7 / 3) / 86
    assert step_of(values) == pytest.approx(1 / 86, rel=1e-12)
    searched = values.copy()
    searched[np.arange(0, 5000, 100)] += 0.001234567891234
    assert grid_of(searched) is None


# -- steps and offsets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.25, 0.005, 1 / 3, 7.0, 20.0])
@pytest.mark.parametrize("offset", [0.0, 0.12, -3.3])
def test_law_any_step_and_offset_is_found_exactly(step: float, offset: float) -> None:
    k = np.random.default_rng(0).integers(-40, 200, 300)
    found = grid_of(offset + step * k)
    assert found is not None
    assert found.step == pytest.approx(step, rel=1e-12)
    np.testing.assert_allclose(found.snap(offset + step * k), offset + step * k, rtol=0, atol=1e-12 * 200 * step)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_law_standardised_integers_are_seen(dtype: str) -> None:
    k = np.random.default_rng(0).poisson(80, 2000).astype(np.float64)
    values = ((k - k.mean()) / k.std()).astype(dtype)
    assert step_of(values) == pytest.approx(1 / k.std(), rel=1e-5)


@pytest.mark.parametrize(
    ("step", "digits", "spread"),
    [(0.1, 5, 2.0), (0.005, 5, 0.2), (1e-5, 5, 0.002), (1.0, 4, 8.0), (1 / 60, 5, 1.2), (1e-8, 5, 4e-5)],
)
def test_law_rounded_values_less_their_mean_and_printed_are_seen_through_both(
    step: float, digits: int, spread: float
) -> None:
    """As the tables of public benchmarks are: the second rounding is known to be noise from the digits printed."""
    values = np.round(drawn(3 * spread, spread, rows=1500) / step) * step
    moved = values - values.mean()
    found = grid_of(printed(moved, digits))
    assert found is not None
    assert found.step == pytest.approx(step, rel=2e-4)
    last = 10.0 ** (np.floor(np.log10(np.abs(moved).max())) + 1 - digits)
    assert np.abs(found.snap(printed(moved, digits)) - moved).max() < last


def test_digits_printed_of_large_values_are_worth_more_than_a_step() -> None:
    values = printed(np.random.default_rng(0).lognormal(0, 3, 3000), 5)
    found = grid_of(values)
    assert found is not None
    assert found.digits == 5
    np.testing.assert_array_equal(found.snap(values), values)
    widths = found.widths(torch.tensor([1.2345, 123.45, 9999.9], dtype=torch.float64)).tolist()
    assert widths == pytest.approx([1e-4, 1e-2, 1e-1], rel=1e-9)
    assert (found.widths(torch.from_numpy(values)) >= found.step).all()


def test_two_values_in_many_rows_are_a_grid_and_in_few_are_not() -> None:
    two = np.array([-0.318213, 0.682187])
    assert step_of(np.repeat(two, 30)) == pytest.approx(1.0004, rel=1e-9)
    assert (step_of(two) or 0) <= 1e-6


def test_many_rows_of_each_value_show_that_there_are_none_between() -> None:
    scores = np.repeat([0.0, 5.0, 10.0, 20.0], 40)
    assert step_of(scores) == 5
    assert step_of(np.array([0.0, 5.0, 10.0, 20.0])) == 1  # four alone may be so by chance


def test_a_million_values_take_a_bounded_search() -> None:
    # The window and the sample bound the search; the answer is that of few values.
    k = np.random.default_rng(0).poisson(1e4, 10**6).astype(np.float64)
    assert step_of((k - 1e4) / 37) == pytest.approx(1 / 37, rel=1e-9)


def test_grids_say_what_they_are() -> None:
    assert Grid(0.01, 0.0, 2).describe() == "at most 2 decimals"
    assert Grid(0.5, 0.125, 3).describe() == "0.125 + multiples of 0.5"
    assert Grid(100.0, 0.0, -2).describe() == "multiples of 100"
    assert Grid(1e-4, 0.0, 4, 5).describe() == "at most 4 decimals, 5 digits printed"
