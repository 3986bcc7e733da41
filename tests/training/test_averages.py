"""The average of weights against an explicit weighted mean over all weights that ever were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM
from scorefield.parametrization import edm_f
from scorefield.training.averages import PowerAverage


def model() -> NetworkDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NetworkDenoiser(MLP((2,), 4, 1), EDM(0.01, 10.0), edm_f(1.0), 1.0).double()


def history(steps: int, share: float) -> tuple[PowerAverage, list[list[Tensor]]]:
    """A walk of weights and its average, with every step of the walk."""
    walker, generator = model(), torch.Generator().manual_seed(0)
    average, seen = PowerAverage(walker, share), []
    for step in range(1, steps + 1):
        for parameter in walker.parameters():
            nn.init.normal_(parameter, generator=generator)
        seen.append([parameter.detach().clone() for parameter in walker.parameters()])
        average.update(walker, step)
    return average, seen


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.25, 0.5])
def test_law_weights_count_as_a_power_of_their_step(share: float) -> None:
    steps = 400
    average, seen = history(steps, share)
    gamma = 1 / share - 2
    # ∫ τ^γ over each step's interval, computed without the recursion.
    edges = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    counts = (edges ** (gamma + 1)).diff()
    expected = [sum(w * p for w, p in zip(counts, part, strict=True)) for part in zip(*seen, strict=True)]
    for mine, theirs in zip(average.model.parameters(), expected, strict=True):
        assert isinstance(theirs, Tensor)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.25, 0.5])
def test_law_the_mean_age_is_the_share(share: float) -> None:
    steps = 2000
    walker = model()
    average = PowerAverage(walker, share)
    # Weights that grow with the step: their average tells the mean step.
    for step in range(1, steps + 1):
        for parameter in walker.parameters():
            nn.init.constant_(parameter, step / steps)
        average.update(walker, step)
    mean = float(next(average.model.parameters()).flatten()[0])
    assert 1 - mean == pytest.approx(share, rel=0.02)


def test_no_share_keeps_the_last_weights() -> None:
    average, seen = history(7, 0.0)
    for mine, last in zip(average.model.parameters(), seen[-1], strict=True):
        assert torch.equal(mine, last)


def test_the_first_weights_leave_no_trace() -> None:
    average, seen = history(1, 0.1)
    for mine, only in zip(average.model.parameters(), seen[0], strict=True):
        assert torch.equal(mine, only)


def test_the_average_is_its_own_model_and_not_trained() -> None:
    walker = model()
    average = PowerAverage(walker, 0.1)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    mine, theirs = ({p.data_ptr() for p in m.parameters()} for m in (average.model, walker))
    assert not mine & theirs
    assert all(parameter.requires_grad for parameter in walker.parameters())
