"""Few values on no even grid: there and back, bins that fill the line, their frequencies, and when they are told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scorefield.codecs.grids import WHOLE, Grid, grid_of
from scorefield.codecs.numeric import NumericColumn
from scorefield.codecs.support import Support, are_known

POINTS = np.array([0.42, 0.75, 1.0, 2.0, 2.5, 3.0, 40.0, 71.5])
HUNDREDTHS = Grid(0.01, 0.0, 2)


def column(rows: int = 2000) -> np.ndarray:
    """Whole ages mostly, a few half years and hundredths."""
    random = np.random.default_rng(0)
    ages = random.integers(1, 60, rows).astype(float)
    return np.where(random.random(rows) < 0.1, random.choice(POINTS, rows), ages)


def test_law_bins_fill_the_line_and_each_has_its_point() -> None:
    support = Support(tuple(POINTS.tolist()))
    values = torch.linspace(-5, 90, 20_001, dtype=torch.float64)
    low, high = (support.middles(values) + side * support.widths(values) / 2 for side in (-1, 1))
    inside = (values >= support.edges[0]) & (values < support.edges[-1])
    assert bool(((low <= values) & (values <= high))[inside].all())
    nearest = POINTS[np.abs(values.numpy()[:, None] - POINTS).argmin(1)]
    between = np.isin(values.numpy(), support.edges)
    assert (support.snap(values.numpy()) == nearest)[~between].all()
    assert (support.snap(POINTS) == POINTS).all()
    assert support.step == 0.25


@pytest.mark.parametrize("value", [-1.0, 0.42, 0.5, 2.0, 2.4999, 39.0, 40.0, 71.5, 99.0])
def test_law_an_edge_parts_the_points_above_a_value_from_the_others(value: float) -> None:
    support = Support(tuple(POINTS.tolist()))
    low, high = float(support.edges[0]), float(support.edges[-1])
    edge = support.edge(low, high, value)
    places = np.linspace(low, high, 5001)[1:-1]
    assert ((places > edge) == (support.snap(places) > value))[places != edge].all()


def test_columns_of_few_uneven_values_come_back_and_are_drawn_as_often_as_they_occur() -> None:
    values = column()
    fitted = NumericColumn.fit("age", values, normal=True)
    assert isinstance(fitted.grid, Support)
    again = NumericColumn.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    cells = again.cells(torch.from_numpy(values))
    u = torch.from_numpy(np.random.default_rng(1).random((len(values), 1)))
    back = again.decode((cells.centre + (2 * u - 1) * cells.extent * (1 - 1e-9))[:, 0])
    assert back.tolist() == values.tolist()
    # H₀: values of normal draws have the column's own frequencies: χ² over some sixty values within five standard
    # errors of its mean. Caught: knots at ranks only, by which half years are drawn as often as whole ones.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = again.decode(torch.from_numpy(np.random.default_rng(2).normal(size=200_000)))
    found = np.array([(drawn == value).mean() for value in distinct])
    share = counts / len(values)
    inner = slice(1, -1)  # the ends take what lies beyond them
    chi = float(((found - share)[inner] ** 2 / share[inner]).sum() * 200_000)
    freedom = len(distinct) - 2
    assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5
    assert np.isin(drawn, distinct).all()


def test_values_that_are_not_all_known_or_fill_their_grid_are_left_to_it() -> None:
    random = np.random.default_rng(0)
    incomes = np.round(np.exp(random.normal(8, 1, 2000)))
    assert not are_known(incomes)  # a new one in every other row
    assert Support.of(incomes, WHOLE) is None
    counts = random.integers(0, 40, 2000)
    assert are_known(counts)
    assert Support.of(counts, WHOLE) is None
    assert are_known(column())
    assert Support.of(column(), HUNDREDTHS) is not None
    assert not are_known(column(99))
    assert Support.of(np.repeat([1.0, 9.0], 200), HUNDREDTHS) is None
    assert isinstance(NumericColumn.fit("c", incomes, normal=True).grid, Grid)
    assert NumericColumn.fit("c", column()).grid == grid_of(column())  # of arrays, whose scale is even


def test_heaps_on_an_even_grid_stay_heaps() -> None:
    random = np.random.default_rng(0)
    hours = random.integers(10, 60, 3000)
    hours = np.where(random.random(3000) < 0.6, np.round(hours / 10) * 10, hours).astype(np.int64)
    fitted = NumericColumn.fit("hours", hours, normal=True)
    assert isinstance(fitted.grid, Grid)
    drawn = fitted.decode(torch.from_numpy(random.normal(size=100_000)))
    for value in (20, 30, 33, 40, 41):
        share = (hours == value).mean()
        assert abs((drawn == value).mean() - share) < 0.1 * share + 0.002
