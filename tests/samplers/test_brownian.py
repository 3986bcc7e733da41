"""Brownian motions looked at ahead: what is drawn has the law given all that is known, and nothing known changes."""

import math

import pytest
import torch
from torch import Tensor

from scorefield.randomness import Stream
from scorefield.samplers.brownian import BrownianPaths


def hours(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def law(known: dict[float, float], time: float) -> tuple[float, float]:
    """Mean and variance of w(time) given others, from the covariance min(a, b) of a Brownian motion."""
    times = torch.tensor([*known, time], dtype=torch.float64)
    covariance = torch.minimum(times[:, None], times[None, :])
    values = torch.tensor([*known.values()], dtype=torch.float64)
    weights = torch.linalg.solve(covariance[:-1, :-1], covariance[:-1, -1]) if known else torch.zeros(0)
    return float(weights @ values) if known else 0.0, float(time - weights @ covariance[:-1, -1]) if known else time


def test_what_is_drawn_has_the_law_given_all_that_was_seen() -> None:
    # Between points, beyond all of them and before the first: mean and deviation from noise 0 and noise 1.
    for asked in (0.1, 0.3, 0.45, 0.7, 1.5):
        paths, known = BrownianPaths(torch.zeros(1, 1, dtype=torch.float64)), {}
        for h, z in ((1.0, 0.7), (0.5, -1.3), (0.2, 0.4)):
            mean, variance = law(known, h)
            w = float(paths.over(hours(h), torch.full((1, 1), z, dtype=torch.float64)))
            assert w == pytest.approx(mean + math.sqrt(variance) * z)
            known[h] = w
            paths.took(torch.tensor([False]))
        mean, variance = law(known, asked)
        for z in (0.0, 1.0):
            found = float(paths.over(hours(asked), torch.full((1, 1), z, dtype=torch.float64)))
            assert found == pytest.approx(mean + math.sqrt(variance) * z)


def test_steps_add_up_to_what_was_known() -> None:
    stream, paths = Stream(0, "w"), BrownianPaths(torch.zeros(7, 3, 2, dtype=torch.float64))
    every = torch.ones(7, dtype=torch.bool)

    def ask(h: float, step: int) -> Tensor:
        return paths.over(
            torch.full((7,), h, dtype=torch.float64), stream.normal(7, (3, 2), step=step, dtype=torch.float64)
        )

    whole = ask(1.0, 0)
    paths.took(~every)
    half = ask(0.5, 1)
    paths.took(~every)
    parts = []
    for step, h in enumerate((0.2, 0.3, 0.1, 0.4), start=2):
        parts.append(ask(h, step))
        paths.took(every)
    assert torch.allclose(parts[0] + parts[1], half)
    assert torch.allclose(sum(parts), whole)
    assert paths.over(torch.ones(7, dtype=torch.float64), torch.zeros(7, 3, 2)).abs().max() == 0  # nothing is left


def test_rows_refuse_and_leave_on_their_own() -> None:
    stream, paths = Stream(0, "w"), BrownianPaths(torch.zeros(4, 1, dtype=torch.float64))
    first = paths.over(hours(1, 2, 3, 4), stream.normal(4, (1,), dtype=torch.float64))
    paths.took(torch.tensor([False, True, False, True]))
    paths.keep(torch.tensor([True, True, True, False]))
    again = paths.over(hours(1, 2, 3), torch.full((3, 1), 5.0, dtype=torch.float64))
    assert torch.allclose(again[[0, 2]], first[[0, 2]])
    assert float(again[1]) == pytest.approx(5 * math.sqrt(2))


def chosen_steps(forget: bool) -> Tensor:
    """w(1) of 20000 rows whose steps of ¼ are halved where they are large, (20000,)."""
    rows = 20000
    stream, paths = Stream(0, "w"), BrownianPaths(torch.zeros(rows, 1, dtype=torch.float64))
    place, total = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, 1, dtype=torch.float64)
    h = torch.full_like(place, 0.25)
    for step in range(40):
        h = torch.minimum(h, (1 - place).clamp(min=1e-12))
        w = paths.over(h, stream.normal(rows, (1,), step=step, dtype=torch.float64))
        good = (w.flatten().abs() < 0.5) | (h < 1 / 16)
        if not forget:
            paths.took(good)
        total += torch.where(good, w.flatten(), 0.0).reshape(-1, 1)
        place = place + torch.where(good, h, 0.0)
        h = torch.where(good, 0.25, h / 2)
    assert float(place.min()) > 1 - 1e-9
    return total.flatten()


def test_steps_chosen_by_what_was_seen_keep_the_law() -> None:
    # H₀: w(1) ~ N(0, 1). Its mean square is 1 ± √(2/n); 4.5 standard errors, false alarm 7e-6.
    # Caught: refused steps that are drawn anew.
    for forget, fits in ((False, True), (True, False)):
        w = chosen_steps(forget)
        z = float((w.square().mean() - 1) / math.sqrt(2 / len(w)))
        assert (abs(z) < 4.5) == fits, z


def test_what_lies_behind_is_forgotten() -> None:
    stream, paths = Stream(0, "w"), BrownianPaths(torch.zeros(3, 1, dtype=torch.float64))
    for step in range(60):
        paths.over(torch.full((3,), 1.0 if step % 3 else 0.4), stream.normal(3, (1,), step=step, dtype=torch.float64))
        paths.took(torch.full((3,), step % 3 == 2))
    assert len(paths._ahead) <= 3
