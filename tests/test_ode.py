"""Runge–Kutta methods against their orders, closed forms and scipy's pair; error control that belongs to the row."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.ode import Field, column, fixed_steps, integrate
from scorefield.randomness import Stream
from scorefield.tableaus import DORMAND_PRINCE, EULER, HEUN, RK4, Tableau

# The method within Dormand & Prince's by which a step is judged: of order 4.
EMBEDDED = Tableau(
    "embedded",
    4,
    DORMAND_PRINCE.nodes,
    DORMAND_PRINCE.matrix,
    tuple(b - e for b, e in zip(DORMAND_PRINCE.weights, DORMAND_PRINCE.error, strict=True)),
)
NOT_DENSE = replace(DORMAND_PRINCE, name="planted", dense=())
TABLEAUS = [EULER, HEUN, RK4, EMBEDDED, DORMAND_PRINCE]
RATES = torch.tensor([0.5, 1.0, 3.0, 10.0, 40.0], dtype=torch.float64)


def swing(x: Tensor, t: Tensor, places: Tensor) -> Tensor:
    """dx/dt = x cos t, so that x = x(0) exp(sin t)."""
    return x * t.cos().reshape(-1, 1)


def drawn(x: Tensor, t: Tensor, places: Tensor) -> Tensor:
    """dx/dt = −λ (x − cos t), stiffer with every row."""
    return -RATES[places].reshape(-1, 1) * (x - t.cos().reshape(-1, 1))


def end_of_drawn(t: float) -> Tensor:
    """Its solution from x(0) = 0, (5, 1)."""
    steady = RATES * (RATES * math.cos(t) + math.sin(t)) / (1 + RATES**2)
    return (steady - RATES**2 / (1 + RATES**2) * torch.exp(-RATES * t)).reshape(-1, 1)


def normals(*shape: int) -> Tensor:
    return Stream(0, "x").normal(shape[0], shape[1:], dtype=torch.float64)


class Counted:
    """A field that counts how often each row is asked for."""

    def __init__(self, field: Field, rows: int) -> None:
        self.field, self.counts = field, torch.zeros(rows, dtype=torch.int64)

    def __call__(self, x: Tensor, t: Tensor, places: Tensor) -> Tensor:
        assert len(x) == len(t) == len(places)
        self.counts[places] += 1
        return self.field(x, t, places)


# -- order ------------------------------------------------------------------------------------------------------------


def errors_of(tableau: Tableau, start: float, steps: tuple[int, ...]) -> list[float]:
    """Root mean square error of `swing` over 16 ends, for each number of steps."""
    ends = torch.linspace(0.5, 2.5, 16, dtype=torch.float64)
    exact = torch.exp(ends.sin() - math.sin(start)).reshape(-1, 1)
    x = torch.ones(16, 1, dtype=torch.float64)
    found = [fixed_steps(swing, x, start, ends, count, tableau) for count in steps]
    return [float((x - exact).square().mean().sqrt()) for x in found]


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda tableau: tableau.name)
@pytest.mark.parametrize("start", [0.0, 3.5])
def test_the_error_falls_by_the_order_of_the_tableau(tableau: Tableau, start: float) -> None:
    errors = errors_of(tableau, start, (20, 40, 80))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([tableau.order] * 2, abs=0.35), errors


def test_a_wrong_coefficient_lowers_the_order() -> None:
    weights = (1 / 6 + 1e-3, 1 / 3, 1 / 3 - 1e-3, 1 / 6)
    a, b = errors_of(Tableau("planted", 4, RK4.nodes, RK4.matrix, weights), 0.0, (40, 80))
    assert math.log2(a / b) < 3


def test_fixed_steps_reuse_the_last_slope() -> None:
    for tableau, expected in ((EULER, 7), (HEUN, 14), (RK4, 28), (DORMAND_PRINCE, 1 + 6 * 7)):
        counted = Counted(swing, 3)
        fixed_steps(counted, normals(3, 2), 0.0, 1.0, 7, tableau)
        assert counted.counts.tolist() == [expected] * 3


# -- tolerance --------------------------------------------------------------------------------------------------------


def test_the_error_obeys_the_tolerance_and_falls_with_it_in_every_row() -> None:
    tolerances, ends = (1e-4, 1e-6, 1e-8), torch.linspace(4, 6, 8, dtype=torch.float64)
    x, every = torch.zeros(40, 1, dtype=torch.float64), ends.repeat_interleave(5)
    errors = []
    for tolerance in tolerances:
        found = integrate(
            lambda x, t, places: drawn(x, t, places % 5), x, 0.0, every, rtol=tolerance, atol=tolerance
        ).x.reshape(8, 5, 1)
        exact = torch.stack([end_of_drawn(end) for end in ends.tolist()])
        errors.append((found - exact).abs().amax(dim=(0, 2)))
        assert (errors[-1] < 2 * tolerance).all(), errors[-1]
    slopes = (errors[0] / errors[-1]).log() / math.log(tolerances[0] / tolerances[-1])
    assert ((slopes > 0.75) & (slopes < 1.25)).all(), slopes


def test_a_growing_solution_obeys_it_relatively() -> None:
    # x′ = x up to e¹⁰: an error in a step grows by what is left of the way, so that errors in all add up to
    # rtol · (number of steps) of x at most.
    x = torch.ones(1, 1, dtype=torch.float64)
    for tolerance in (1e-4, 1e-6, 1e-8):
        found = integrate(lambda x, t, places: x, x, 0.0, 10.0, rtol=tolerance, atol=1e-12)
        assert float(found.x / math.exp(10) - 1) == pytest.approx(0, abs=tolerance * int(found.accepted))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_it_asks_about_as_often_as_scipy_at_equal_tolerance(tolerance: float) -> None:
    found = integrate(drawn, torch.zeros(5, 1, dtype=torch.float64), 0.0, 5.0, rtol=tolerance, atol=tolerance)
    for rate, evaluations in zip(RATES.tolist(), found.evaluations.tolist(), strict=True):
        theirs = solve_ivp(
            lambda t, y, rate=rate: -rate * (y - math.cos(t)),
            (0, 5),
            np.zeros(1),
            rtol=tolerance,
            atol=tolerance,
            method="RK45",
        )
        assert evaluations <= 1.2 * theirs.nfev + 6


def test_only_rows_on_their_way_are_asked_for_and_their_last_slope_is_used_again() -> None:
    counted = Counted(drawn, 5)
    found = integrate(counted, torch.zeros(5, 1, dtype=torch.float64), 0.0, 5.0, rtol=1e-5, atol=1e-5)
    assert torch.equal(counted.counts, found.evaluations)
    assert torch.equal(found.evaluations, 2 + 6 * (found.accepted + found.rejected))
    assert found.evaluations[4] > 3 * found.evaluations[0]  # else the stiffest row has set the pace of all
    assert torch.equal(found.slope, drawn(found.x, found.t, torch.arange(5)))


# -- rows -------------------------------------------------------------------------------------------------------------


def uneven(x: Tensor, t: Tensor, places: Tensor) -> Tensor:
    """A field of elements alone, the quicker the larger the row."""
    return (3 * t).sin().reshape(-1, *[1] * (x.ndim - 1)) * (4 * x).cos() * (1 + x**2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_row_i_is_the_same_to_the_bit_in_any_batch(dtype: torch.dtype) -> None:
    x = (2 * normals(40, 3, 2)).to(dtype)
    t0, t1 = torch.linspace(0, 1, 40, dtype=torch.float64), torch.linspace(4, -3, 40, dtype=torch.float64)
    whole = integrate(uneven, x, t0, t1, rtol=1e-5, atol=1e-5)
    assert whole.x.dtype == dtype
    assert len(whole.evaluations.unique()) > 5
    for a, b in ((0, 1), (1, 17), (17, 40)):
        part = integrate(uneven, x[a:b], t0[a:b], t1[a:b], rtol=1e-5, atol=1e-5)
        assert torch.equal(part.x, whole.x[a:b])
        assert torch.equal(part.evaluations, whole.evaluations[a:b])


def test_up_and_down_are_inverse() -> None:
    x = normals(6, 2)
    ends = torch.tensor([3.0, -2.0, 1.0, 0.5, 6.0, -4.0], dtype=torch.float64)
    there = integrate(swing, x, 0.5, ends, rtol=1e-9, atol=1e-9)
    back = integrate(swing, there.x, ends, 0.5, rtol=1e-9, atol=1e-9)
    assert torch.allclose(there.x, x * torch.exp(ends.sin() - math.sin(0.5)).reshape(-1, 1), rtol=1e-7, atol=1e-7)
    assert torch.allclose(back.x, x, rtol=1e-7, atol=1e-7)
    assert torch.equal(there.t, ends)
    assert there.evaluations[3] == there.accepted[3] == 0
    assert torch.equal(there.x[3], x[3])
    assert there.slope[3].isnan().all()


def test_a_slope_of_zero_at_the_start_says_nothing_of_the_clock() -> None:
    # A first step of a millionth, as it is taken elsewhere where the slope is zero, costs five attempts at growing.
    found = integrate(
        lambda x, t, places: (t.sin() ** 4).reshape(-1, 1), torch.ones(1, 1), 0.0, 3.0, rtol=1e-3, atol=1e-3
    )
    assert int(found.evaluations) <= 26


def test_an_empty_batch_and_empty_rows_come_back_as_they_are() -> None:
    for shape in ((0, 3), (2, 0)):
        found = integrate(uneven, torch.ones(shape), 0.0, 1.0, rtol=1e-3, atol=1e-3)
        assert found.x.shape == shape
        assert len(found.evaluations) == shape[0]


def test_attempts_are_watched() -> None:
    seen = []
    x = normals(3, 1)
    found = integrate(
        drawn,
        x,
        torch.zeros(3),
        torch.tensor([1.0, 5.0, -1.0]),
        rtol=1e-4,
        atol=1e-4,
        on_attempt=lambda attempt, t, x, slope: seen.append((attempt, t, x, slope)),
    )
    assert [entry[0] for entry in seen] == list(range(int((found.accepted + found.rejected).max())))
    assert torch.equal(seen[0][2], x)
    for _, t, x, slope in seen:
        assert torch.equal(slope, drawn(x, t, torch.arange(3)))
    times = torch.stack([entry[1] for entry in seen])
    assert (times.diff(dim=0)[:, 1] >= 0).all()
    assert (times.diff(dim=0)[:, 2] <= 0).all()


# -- between steps ----------------------------------------------------------------------------------------------------


def test_between_steps_x_is_known_to_order_four() -> None:
    # Steps of one length each, by tolerances that nothing exceeds and a way of one step: the error of the extension
    # within a step of h is O(h⁵), of x(0)(exp(sin t) − …) at θ = 0.3, 0.5, 0.8.
    shares, errors = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64), []
    for h in (0.4, 0.2, 0.1, 0.05):
        x = torch.ones(1, 1, dtype=torch.float64)
        found = integrate(swing, x, 0.5, 0.5 + h, rtol=0.0, atol=1e3, at=0.5 + h * shares)
        assert int(found.accepted) == 1
        exact = torch.exp((0.5 + h * shares).sin() - math.sin(0.5))
        errors.append((found.between.flatten() - exact).abs())
    for before, after in itertools.pairwise(errors):
        assert ((before / after).log2() > 4.5).all(), errors


def test_between_steps_it_obeys_the_tolerance_up_and_down_and_meets_the_ends() -> None:
    x, ends = normals(6, 2), torch.tensor([3.0, -2.0, 1.0, 0.5, 6.0, -4.0], dtype=torch.float64)
    at = torch.linspace(-4, 6, 101, dtype=torch.float64)
    at = torch.cat((at, ends, torch.tensor([0.5], dtype=torch.float64)))
    for tolerance in (1e-4, 1e-7):
        found = integrate(swing, x, 0.5, ends, rtol=tolerance, atol=tolerance, at=at)
        exact = x * torch.exp(at.sin() - math.sin(0.5)).reshape(-1, 1, 1)
        passed = (at.unsqueeze(1) - 0.5) * (at.unsqueeze(1) - ends) <= 0
        assert torch.equal(found.between.isfinite().all(2), passed)
        assert torch.equal(found.between.isnan().all(2), ~passed)
        error = (found.between - exact)[passed].abs() / (1 + exact[passed].abs())
        assert float(error.max()) < 30 * tolerance
        for row in range(6):
            assert torch.equal(found.between[101 + row, row], found.x[row])
        assert torch.equal(found.between[-1], x)


def test_where_steps_meet_x_is_that_of_the_steps_even_on_a_coarse_clock() -> None:
    # At t = 1e6 the clock ticks in 1e-10: t + h is off by more than any fixed share of h would allow for.
    x, seen = normals(1, 1), []
    ways = {"rtol": 1e-6, "atol": 1e-6}
    integrate(swing, x, 1e6, 1e6 + 3, **ways, on_attempt=lambda n, t, x, slope: seen.append((t, x)))
    at = torch.cat([t for t, _ in seen]).unique()
    assert len(at) > 8
    found = integrate(swing, x, 1e6, 1e6 + 3, **ways, at=at)
    for t, there in seen:
        assert torch.allclose(found.between[int((at == t).nonzero())], there, rtol=1e-8)


def test_between_steps_a_row_is_the_same_to_the_bit_in_any_batch_and_costs_nothing() -> None:
    x, at = 2 * normals(20, 3), torch.linspace(0.1, 3, 30, dtype=torch.float64)
    ends = torch.linspace(4, 3, 20, dtype=torch.float64)
    whole = integrate(uneven, x, 0.0, ends, rtol=1e-5, atol=1e-5, at=at)
    assert torch.equal(whole.x, integrate(uneven, x, 0.0, ends, rtol=1e-5, atol=1e-5).x)
    for a, b in ((0, 1), (1, 7), (7, 20)):
        part = integrate(uneven, x[a:b], 0.0, ends[a:b], rtol=1e-5, atol=1e-5, at=at)
        assert torch.equal(part.between, whole.between[:, a:b])
        assert torch.equal(part.evaluations, whole.evaluations[a:b])


def test_where_a_row_has_not_come_by_there_is_no_number() -> None:
    at = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64)
    found = integrate(broken, normals(5, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6, strict=False, at=at)
    known = found.between.isfinite().all(2)
    assert known.T.tolist() == [[True] * 3, [True, False, False], [True] * 3, [True, True, False], [True] * 3]
    with pytest.raises(SamplingError, match="planted has no continuous extension"):
        integrate(swing, normals(2, 1), 0.0, 1.0, rtol=1e-3, atol=1e-3, tableau=NOT_DENSE, at=at)


# -- faults -----------------------------------------------------------------------------------------------------------


def broken(x: Tensor, t: Tensor, places: Tensor) -> Tensor:
    """Row 1 has no field at all, row 3 none beyond t = 0.5."""
    bad = (places == 1) | ((places == 3) & (t > 0.5))
    return torch.where(bad.reshape(-1, 1), math.nan, -x)


def test_a_row_without_a_field_is_named_and_the_others_are_as_without_it() -> None:
    x = normals(5, 2)
    found = integrate(broken, x, 0.0, 1.0, rtol=1e-6, atol=1e-6, strict=False)
    alone = integrate(lambda x, t, places: -x, x, 0.0, 1.0, rtol=1e-6, atol=1e-6)
    for row in (0, 2, 4):
        assert torch.equal(found.x[row], alone.x[row])
        assert found.t[row] == 1
    assert set(found.faults) == {1, 3}
    assert found.t[1] == 0
    assert float(found.t[3]) == pytest.approx(0.5, abs=1e-9)
    assert torch.allclose(found.x[3], x[3] * math.exp(-0.5), rtol=1e-5)
    assert "not finite in step 0, at t = 0" in found.faults[1]
    assert "not finite just beyond" in found.faults[3]


def test_with_strict_it_is_refused_under_its_own_number() -> None:
    with pytest.raises(SamplingError, match=r"1 of 5 rows cannot go on, row 101: the field is not finite .*t = 0$"):
        integrate(broken, normals(5, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6, rows=range(100, 105))


def test_a_solution_that_ends_before_the_way_is_named_with_its_time() -> None:
    # x′ = x² from 1 is 1/(1 − t): there is none at t = 1. From 1/4 there is one up to t = 4.
    x = torch.tensor([[0.25], [1.0]], dtype=torch.float64)
    found = integrate(lambda x, t, places: x**2, x, 0.0, 2.0, rtol=1e-6, atol=1e-6, strict=False)
    assert float(found.x[0]) == pytest.approx(0.5, rel=1e-4)
    assert list(found.faults) == [1]
    assert "resolution" in found.faults[1]
    assert float(found.t[1]) == pytest.approx(1, abs=1e-3)


def test_attempts_are_bounded() -> None:
    with pytest.raises(SamplingError, match=r"row \d: 20 attempts are not enough .*t = "):
        integrate(drawn, torch.zeros(5, 1, dtype=torch.float64), 0.0, 5.0, rtol=1e-3, atol=1e-3, max_attempts=20)


@pytest.mark.parametrize(("rtol", "atol"), [(-1e-3, 1e-3), (1e-3, 0.0), (math.nan, 1e-3), (1e-3, math.inf)])
def test_tolerances_that_are_none_are_refused(rtol: float, atol: float) -> None:
    with pytest.raises(SamplingError, match="atol > 0"):
        integrate(swing, normals(2, 1), 0.0, 1.0, rtol=rtol, atol=atol)


def test_misuse_is_refused() -> None:
    with pytest.raises(SamplingError, match="at least 1 step, got 0"):
        fixed_steps(swing, normals(2, 1), 0.0, 1.0, 0)
    with pytest.raises(SamplingError, match="RK4 has no embedded method"):
        integrate(swing, normals(2, 1), 0.0, 1.0, rtol=1e-3, atol=1e-3, tableau=RK4)
    with pytest.raises(SamplingError, match=r"shaped like its argument, \(2, 1\), got \(2, 2\)"):
        integrate(lambda x, t, places: x.repeat(1, 2), normals(2, 1), 0.0, 1.0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_a_column_gives_each_row_its_number_and_keeps_the_type_of_rows(shape: tuple[int, ...]) -> None:
    rows, numbers = normals(5, *shape).float(), normals(5)
    scaled = column(numbers, rows) * rows
    assert scaled.dtype == torch.float32
    for row, number, one in zip(rows, numbers, scaled, strict=True):
        torch.testing.assert_close(one, float(number) * row)
    chosen = torch.where(column(numbers > 0, rows), rows, -rows)  # bools must not become numbers
    for row, number, one in zip(rows, numbers, chosen, strict=True):
        torch.testing.assert_close(one, row if number > 0 else -row)
