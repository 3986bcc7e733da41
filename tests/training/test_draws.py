"""What a step draws: pairs that differ in the sign of ε alone, strata that stay unbiased, and less variance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.exact import Gaussian
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM
from scorefield.objectives.criteria import Denoising
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.objectives.times import LogUniform
from scorefield.objectives.weights import one
from scorefield.parametrization import edm_f
from scorefield.randomness import Stream
from scorefield.training.draws import Draws

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 64, 512])
def test_pairs_differ_in_the_sign_of_epsilon_alone(batch: int) -> None:
    draws = Draws(5000, batch, seed=1, antithetic=True, device=CPU)
    for step in (0, 3):
        drawn = draws.at(step)
        pairs = batch // 4
        x = torch.zeros(batch, 2, 3, dtype=torch.float64)
        epsilon, probe = drawn.noise.like(x), drawn.noise.like(x, draw=1)
        assert len(drawn.rows) == len(drawn.u) == len(epsilon) == batch
        last = slice(batch - pairs, batch)
        assert (drawn.rows[:pairs] == drawn.rows[last]).all()
        assert torch.equal(drawn.u[:pairs], drawn.u[last])
        assert torch.equal(epsilon[:pairs], -epsilon[last])
        # Nothing else is shared: probes and all other rows are their own.
        assert len(torch.cat([probe, epsilon[: batch - pairs]]).flatten().unique()) == 6 * (2 * batch - pairs)
        assert len(set(drawn.rows[: batch - pairs])) == batch - pairs


@pytest.mark.parametrize("batch", [2, 5, 64, 256, 512, 1000, 1024])
def test_no_row_stands_twice_in_a_reference_batch(batch: int) -> None:
    # `resolve` refuses reference batches of more than half a batch: one of all rows would have both of a pair.
    rows = Draws(5000, batch, seed=1, antithetic=True, device=CPU).at(0).rows
    for size in {1, batch // 3, min(256, batch // 2), batch // 2} - {0}:
        for start in range(0, batch, size):
            part = rows[start : start + size]
            assert len(set(part)) == len(part)
    assert (len(set(rows)) < batch) == (batch >= 4)


def test_without_pairs_every_row_is_drawn_once_a_pass() -> None:
    draws = Draws(100, 25, seed=1, antithetic=False, device=CPU)
    assert sorted(row for step in range(4) for row in draws.at(step).rows) == list(range(100))
    assert torch.equal((draws.at(2).u * 25).floor(), torch.arange(25.0, dtype=torch.float64))


@pytest.mark.parametrize("antithetic", [True, False])
def test_a_step_draws_the_same_whenever_it_is_asked(antithetic: bool) -> None:
    first, second = (Draws(100, 16, seed=1, antithetic=antithetic, device=CPU) for _ in range(2))
    for step in range(5):
        first.at(step)
    mine, theirs = first.at(7), second.at(7)
    x = torch.zeros(16, 3)
    assert (mine.rows == theirs.rows).all()
    assert torch.equal(mine.u, theirs.u)
    assert torch.equal(mine.noise.like(x), theirs.noise.like(x))
    assert not torch.equal(mine.noise.like(x), first.at(8).noise.like(x))


def test_strata_of_pairs_are_unbiased() -> None:
    # H₀: batch means of f(u) have the mean ∫f: 2000 batches, 5 standard errors, 6e-7 each. Caught: strata of one width.
    batch, pairs = 8, 2
    draws = Stream(0, "u").uniform(2000, (batch - pairs,))

    def z(u: Tensor, f: object) -> float:
        u = torch.cat([u, u[:, :pairs]], 1)
        means = (u**2 if f == "square" else u.exp()).mean(1)
        mean = 1 / 3 if f == "square" else math.e - 1
        return float((means.mean() - mean) / (means.std() / math.sqrt(len(means))))

    right = torch.stack([stratified(row, pairs) for row in draws])
    wrong = torch.stack([stratified(row) for row in draws])
    for f in ("square", "exp"):
        assert abs(z(right, f)) < 5
        assert abs(z(wrong, f)) > 8
    # Each row keeps to its stratum, of which those of pairs are twice as wide.
    edges = torch.tensor([0.0, 2, 4, 5, 6, 7, 8], dtype=torch.float64) / batch
    assert ((right > edges[:-1]) & (right < edges[1:])).all()


def test_pairs_spare_the_gradient_variance_at_little_noise() -> None:
    # At least three times less where σ is a twentieth of the data; measured: ten times and more (docs/objectives.md).
    schedule = EDM(0.04, 0.06)
    truth = Gaussian(torch.zeros(2), torch.eye(2), schedule)
    data = truth.sample(4000, seed=0).float()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        network = MLP((2,), 16, 1)
        torch.nn.init.normal_(network.out.weight, std=0.1)
    model = NetworkDenoiser(network, schedule, edm_f(1.0), 1.0)
    objective = ScoreMatching(LogUniform(), Denoising(edm_f(1.0)), one)
    spread = []
    for antithetic in (True, False):
        draws = Draws(len(data), 64, seed=1, antithetic=antithetic, device=CPU)
        gradients = []
        for step in range(100):
            drawn = draws.at(step)
            rows = slice(0, 64)
            if antithetic:  # the paired half alone, which in training has the least noise
                rows = torch.cat([torch.arange(16), torch.arange(48, 64)])
            losses = objective(model, data[drawn.rows], drawn.noise, drawn.u)[rows]
            parts = torch.autograd.grad(losses.mean(), list(model.parameters()))
            gradients.append(torch.cat([part.flatten() for part in parts]))
        each = torch.stack(gradients).var(0).sum()
        spread.append(float(each) * (32 if antithetic else 64))  # as of one row
    assert spread[0] < spread[1] / 3
