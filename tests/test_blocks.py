"""Numbers about vertices: their posterior mean against mixtures known in closed form, and through a whole denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scorefield.blocks import Block, Blocks
from scorefield.codecs.vertices import BLUR, Vertices
from scorefield.exact import GaussianMixture
from scorefield.model import NetworkDenoiser
from scorefield.moments import Moments
from scorefield.noise import EDM, VP, Flow, NoiseLevel, Schedule
from scorefield.parametrization import EPSILON, V, edm_f
from scorefield.randomness import Stream

SCHEDULES = [EDM(0.01, 20.0), VP(), Flow(t_min=0.01)]
TIMES = (0.05, 0.3, 0.8)


def about(points: Tensor, weights: Tensor, schedule: Schedule) -> GaussianMixture:
    """x0 = v_k + τ z with probability w_k, exactly."""
    count, features = points.shape
    covariances = BLUR**2 * torch.eye(features, dtype=torch.float64).expand(count, features, features)
    return GaussianMixture(weights, points, covariances, schedule)


def noisy(truth: GaussianMixture, share: float, rows: int = 200) -> tuple[Tensor, NoiseLevel]:
    schedule = truth.schedule
    t = torch.tensor(schedule.t_min + share * (schedule.t_max - schedule.t_min) * 0.5, dtype=torch.float64)
    return truth.sample(rows, 0, t), schedule.at(t)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("share", TIMES)
def test_oracle_without_odds_it_is_the_mixture_of_equal_weights(schedule: Schedule, share: float) -> None:
    points = Vertices(5).points
    truth = about(points, torch.ones(5), schedule)
    x, level = noisy(truth, share)
    blocks = Blocks([Block(0, points, BLUR)], 4)
    found = blocks.clean(torch.zeros_like(x), x, level)
    torch.testing.assert_close(found, truth(x, level).x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", TIMES)
def test_oracle_odds_are_those_of_the_weights(share: float) -> None:
    """f with v_kᵀ f = log w_k + a constant, in units of what grows with the evidence; planted: odds of another sign."""
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    points = Vertices(4).points
    truth = about(points, weights, EDM(0.01, 20.0))
    x, level = noisy(truth, share)
    alpha, sigma = level.alpha.reshape(1, 1), level.sigma.reshape(1, 1)
    gain = alpha * (alpha**2 + sigma**2).sqrt() / (sigma**2 + (alpha * BLUR) ** 2)
    f = torch.linalg.pinv(points) @ (weights.log() - weights.log().mean()) / gain
    blocks = Blocks([Block(0, points, BLUR)], 3)
    found = blocks.clean(f.expand_as(x), x, level)
    torch.testing.assert_close(found, truth(x, level).x0, rtol=1e-8, atol=1e-8)
    wrong = blocks.clean(-f.expand_as(x), x, level)
    assert (wrong - truth(x, level).x0).abs().max() > 0.1


def test_oracle_a_missing_name_is_a_vertex_at_the_origin_whose_odds_the_flag_has() -> None:
    points = Vertices(3).points
    weights = torch.tensor([0.2, 0.2, 0.2, 0.4], dtype=torch.float64)
    middle = torch.cat([points, torch.zeros(1, 2, dtype=torch.float64)])
    truth = about(middle, weights, EDM(0.01, 20.0))
    x, level = noisy(truth, 0.1)
    alpha, sigma = level.alpha.reshape(1, 1), level.sigma.reshape(1, 1)
    gain = alpha * (alpha**2 + sigma**2).sqrt() / (sigma**2 + (alpha * BLUR) ** 2)
    # 1 of the flag stands for a cell that is there: names then gain twice the flag's odds on the origin.
    odds = float((weights[0] / weights[3]).log() / 2 / gain)
    rows = torch.cat([torch.ones(len(x), 1, dtype=torch.float64), x], dim=1)
    f = torch.zeros_like(rows)
    f[:, 0] = odds
    parts = [Block(0, Vertices(2).points, BLUR), Block(1, points, BLUR, flag=0)]
    found = Blocks(parts, 3).clean(f, rows, level)
    torch.testing.assert_close(found[:, 1:], truth(x, level).x0, rtol=1e-8, atol=1e-8)


def test_blocks_of_any_widths_stand_beside_each_other_and_other_numbers_stay_out() -> None:
    schedule = EDM(0.01, 20.0)
    level = schedule.at(torch.tensor(0.4, dtype=torch.float64))
    points = [Vertices(count).points for count in (7, 2, 3, 12)]
    starts, at = [], 1
    for each in points:
        starts.append(at)
        at += each.shape[1] + 1  # one other number after each
    x, f = (Stream(0, name).normal(50, (at,), dtype=torch.float64) for name in ("x", "f"))
    together = Blocks([Block(s, p, BLUR) for s, p in zip(starts, points, strict=True)], at)
    found = together.clean(f, x, level)
    inside = together.inside(x)
    assert int(inside.sum()) == sum(each.shape[1] for each in points)
    assert (found[:, ~inside] == 0).all()
    for start, each in zip(starts, points, strict=True):
        own = slice(start, start + each.shape[1])
        alone = Blocks([Block(0, each, BLUR)], each.shape[1]).clean(f[:, own], x[:, own], level)
        torch.testing.assert_close(found[:, own], alone)


def test_bits_of_a_cube_are_blocks_of_their_own() -> None:
    cube = Vertices(100, cube=True)
    parts = cube.blocks(3, -1)
    assert [part.start for part in parts] == list(range(3, 3 + cube.features))
    assert all(len(part.points) == 2 for part in parts)
    assert Vertices(1).blocks(0, -1) == []


class Nothing(nn.Module):
    """A network that predicts zero."""

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("notation", [edm_f(1.0), EPSILON, V], ids=lambda n: n.name)
@pytest.mark.parametrize("each", [False, True], ids=["one level", "a level a row"])
def test_oracle_a_denoiser_of_names_and_numbers_that_do_not_depend_on_each_other(notation: object, each: bool) -> None:
    """Untrained, names of equal weights and Gaussian numbers are exact, in any notation."""
    schedule = EDM(0.01, 20.0)
    points = Vertices(3).points
    names = about(points, torch.ones(3), schedule)
    variance = 0.49
    numbers = GaussianMixture(torch.ones(1), torch.full((1, 1), 0.3), torch.full((1, 1, 1), variance), schedule)
    covariance = torch.zeros(3, 3, dtype=torch.float64)
    covariance[:2, :2], covariance[2, 2] = names.covariance(), variance
    model = NetworkDenoiser(
        Nothing(),
        schedule,
        notation,
        1.0,
        whitened=True,
        blocks=Blocks([Block(0, points, BLUR)], 3),  # type: ignore[arg-type]
    )
    model.moments = Moments.of(torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64), covariance)
    t = torch.linspace(0.05, 3.0, 40, dtype=torch.float64) if each else torch.tensor(0.7, dtype=torch.float64)
    x = 2 * Stream(0, "x").normal(40, (3,), dtype=torch.float64)
    expected = torch.cat([names(x[:, :2], t).x0, numbers(x[:, 2:], t).x0], dim=1)
    torch.testing.assert_close(model(x, t).x0, expected, rtol=1e-8, atol=1e-8)
