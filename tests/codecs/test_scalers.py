"""Laws of the scalers: inverse of forward, growing, log-slope against autograd, the same after JSON, never a zero."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scorefield.codecs.scalers import Quantile, Scaler, Standardise, fit_scaler, scaler_from_json

quick = settings(max_examples=60, deadline=None)
columns = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40).filter(lambda v: max(v) - min(v) > 1e-3)


def column(name: str, rows: int = 3000) -> Tensor:
    """Columns of known shapes, as float64."""
    random = np.random.default_rng(0)
    made = {
        "normal": random.normal(5, 3, rows),
        "lognormal": random.lognormal(0, 2, rows),
        "cauchy": random.standard_cauchy(rows),
        "mostly zero": np.where(random.random(rows) < 0.97, 0, random.exponential(10, rows)),
        "one outlier": np.append(random.normal(size=rows - 1), 1e6),
    }
    return torch.from_numpy(made[name])


SHAPES = ("normal", "lognormal", "cauchy", "mostly zero", "one outlier")


@quick
@given(values=columns, beyond=st.floats(-3, 3))
@pytest.mark.parametrize("kind", ["chosen", "quantile"])
def test_law_inverse_undoes_forward_within_and_beyond_the_data(kind: str, values: list[float], beyond: float) -> None:
    data = torch.tensor(values, dtype=torch.float64)
    scaler: Scaler = fit_scaler(data) if kind == "chosen" else Quantile.fit(data)
    span = float(data.max() - data.min())
    asked = torch.cat([data, data.mean()[None] + beyond * span])
    back = scaler.inverse(scaler.forward(asked))
    # Rounding of either direction is relative to the largest numbers that take part.
    scale = float(asked.abs().max()) + span
    torch.testing.assert_close(back, asked, rtol=0, atol=1e-9 * scale)


@quick
@given(values=st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=40, unique=True))
def test_law_forward_grows(values: list[int]) -> None:
    # Thousandths: values closer than float64's rounding of the widest could not be told apart.
    distinct = torch.tensor(values, dtype=torch.float64).div(1000).sort().values
    for scaler in (fit_scaler(distinct), Quantile.fit(distinct)):
        assert (scaler.forward(distinct).diff() > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["chosen", "quantile"])
def test_law_log_slope_is_autograds(shape: str, kind: str) -> None:
    data = column(shape)
    scaler: Scaler = fit_scaler(data) if kind == "chosen" else Quantile.fit(data)
    span = data.max() - data.min()
    between = torch.linspace(0, 1, 997, dtype=torch.float64) * 1.2 * span + data.min() - 0.1 * span
    asked = between.clone().requires_grad_()
    scaler.forward(asked).sum().backward()
    assert asked.grad is not None
    torch.testing.assert_close(scaler.log_slope(between), asked.grad.log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_quantile_makes_a_normal_of_any_shape(shape: str) -> None:
    scaled = Quantile.fit(column(shape)).forward(column(shape))
    # Shares below three marks are those of N(0, 1), as far as ties allow; the share of a tie is split at its middle.
    tie = float((column(shape).unique(return_counts=True)[1] / 3000).max())
    for mark in (-1.0, 0.5, 2.0):
        expected = 0.5 * math.erfc(-mark / math.sqrt(2))
        assert abs(float((scaled <= mark).double().mean()) - expected) <= tie / 2 + 3 / 512


def test_standardise_has_mean_zero_and_deviation_one() -> None:
    scaled = fit_scaler(column("normal")).forward(column("normal"))
    assert abs(float(scaled.mean())) < 1e-12
    assert abs(float(scaled.std(correction=0)) - 1) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_heavy_and_skewed_columns_get_ranks_so_that_no_row_lies_far_out(shape: str) -> None:
    scaler = fit_scaler(column(shape))
    assert isinstance(scaler, Standardise if shape == "normal" else Quantile)
    # The largest of 3000 normals lies near 3.5; an outlier of 10⁶ standardised would lie at 54.
    assert float(scaler.forward(column(shape)).abs().max()) < 6


@pytest.mark.parametrize("shape", SHAPES)
def test_law_json_gives_the_same_scaler(shape: str) -> None:
    scaler = fit_scaler(column(shape))
    again = scaler_from_json(json.loads(json.dumps(scaler.to_json())))
    assert again == scaler
    assert torch.equal(again.forward(column(shape)), scaler.forward(column(shape)))


def test_two_values_are_enough() -> None:
    data = torch.tensor([3.0, 3.0, 7.0], dtype=torch.float64)
    for scaler in (fit_scaler(data), Quantile.fit(data)):
        assert scaler.forward(data).isfinite().all()
        assert scaler.log_slope(data).isfinite().all()


def test_a_tail_goes_on_as_its_last_unit_of_the_normals_whatever_stands_at_its_end() -> None:
    values = column("normal")
    values[:2] = torch.tensor([values.max() + 3, values.max() + 3 + 1e-9])
    for scaler in (Quantile.fit(values), Quantile.of_bins(*_bins(values, 1e-3))):
        end = scaler.values[-2]  # of the data, or of their last bin
        top = scaler.forward(torch.tensor([end, end + 1, end + 5], dtype=torch.float64))
        # Half a billion normals would lie between them by the slope of the last two values.
        assert 0.05 < float(top[1] - top[0]) < 1
        assert float(top[2] - top[0]) == pytest.approx(5 * float(top[1] - top[0]))
        below, above = scaler.inverse(top[0] + torch.tensor([-1.0, 1.0], dtype=torch.float64)).tolist()
        assert above - end == pytest.approx(end - below)


def _bins(values: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """The bins of values on a grid: their ends, and rows in each."""
    middles, counts = (values / width).round().unique(return_counts=True)
    return (middles - 0.5) * width, (middles + 0.5) * width, counts


def test_a_scale_of_few_rows_is_no_density_of_its_own() -> None:
    # H₀: what a scale costs in log density on rows it has not seen is 1/(2·10) nats, as ten rows a knot say (the mean
    # of log m − ψ(m)); 40 sets of 300 rows, standard error 0.004. Caught: a knot for every row, 0.42 nats.
    random, lost = np.random.default_rng(0), []
    for _ in range(40):
        seen, unseen = (torch.from_numpy(random.normal(size=300)) for _ in range(2))
        scaler = Quantile.fit(seen)
        z = scaler.forward(unseen)
        lost.append(float((unseen.square() / 2 - z.square() / 2 + scaler.log_slope(unseen)).mean()))
    assert -0.1 < np.mean(lost) < 0


def test_oracle_the_tails_of_a_pareto_become_normal_too() -> None:
    """Planted bug: knots even in rank leave one line beyond rank 0.998, and the quantile 0.9999 near 3.1, not 3.7."""
    values = torch.from_numpy(np.random.default_rng(3).pareto(1.5, 200_000) + 1)
    scaler = Quantile.fit(values)
    scaled = scaler.forward(values)
    for rank in (0.0001, 0.001, 0.01, 0.5, 0.99, 0.999, 0.9999):
        expected = float(torch.special.ndtri(torch.tensor(rank, dtype=torch.float64)))
        assert float(scaled.quantile(rank)) == pytest.approx(expected, abs=0.05), rank
    torch.testing.assert_close(scaler.inverse(scaled), values, rtol=1e-9, atol=0)
    asked = values[:2000].clone().requires_grad_()
    scaler.forward(asked).sum().backward()
    assert asked.grad is not None
    torch.testing.assert_close(scaler.log_slope(values[:2000]), asked.grad.log())


@pytest.mark.parametrize("shape", SHAPES)
def test_law_a_step_is_the_same_everywhere_or_none(shape: str) -> None:
    scaler = fit_scaler(column(shape))
    step = scaler.step(0.1)
    if isinstance(scaler, Quantile):
        assert step is None
    else:
        places = column(shape)[:50]
        torch.testing.assert_close(
            scaler.forward(places + 0.1) - scaler.forward(places), torch.full_like(places, step or 0)
        )
