"""Claim: the score of an energy is learned better by denoising than by contrastive divergence, in the same seconds.

One EnergyDenoiser, one thread and the same seconds of the processor for each objective, on the eight Gaussians of
`toy:mixture`, whose score and density are known at every level. Times are log-uniform over σ in [0.1, 20], for
persistent chains 0.1 alone. Prints for each

    ms          a step of 512 rows
    lowest, all √(Σ_levels σ² E‖s_θ − s*‖² / Σ_levels σ² E‖s*‖²), x ~ p_t, at σ = 0.1 and over 16 levels evenly in log σ
    nats        E |log p_θ − log p| at σ = 0.1 over held-out points, with log p_θ = −E − log Z
    within      the same less its mean over each of the eight: what is left when only their weights were mistaken, which
                a score hardly sees where they lie apart
    log Z       of annealed importance sampling at σ = 0.1 with its standard error, beside the truth, a sum over a fine
                grid of the plane; and the effective number of its 2000 rows

and for Metropolis' moves on the mixture itself, whose log Z is zero, the same estimate.

    OMP_NUM_THREADS=1 python benchmarks/energies.py [--seconds 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from scorefield.data.toy import toy_mixture
from scorefield.exact import GaussianMixture
from scorefield.model import EnergyDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM
from scorefield.objectives.contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from scorefield.objectives.criteria import Criterion, Denoising
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.objectives.times import Fixed, LogUniform
from scorefield.objectives.weights import one
from scorefield.parametrization import edm_f
from scorefield.randomness import Noise, Stream
from scorefield.samplers import grids
from scorefield.samplers.importance import Normaliser, annealed_importance
from scorefield.samplers.langevin import Langevin, MetropolisLangevin

SCHEDULE = EDM(0.1, 20.0)
BATCH = 512


class Truth(GaussianMixture):
    """The mixture as an energy."""

    def energy(self, x: Tensor, t: Tensor | float) -> Tensor:
        """−log p_t(x), so that log Z is zero."""
        return -self.log_prob(x, t)


def objectives(sigma_data: float) -> dict[str, ScoreMatching]:
    """What is compared; losses of score matching in F, so that levels count alike."""
    f = edm_f(sigma_data)
    criteria: dict[str, Criterion] = {
        "denoising": Denoising(f),
        "implicit": Implicit(f),
        "sliced": Sliced(f),
        "finite differences": FiniteDifference(f),
        "CD-1": ContrastiveDivergence(Langevin(1, 0.5)),
        "CD-10": ContrastiveDivergence(Langevin(10, 0.5)),
        "CD-10, regularised": ContrastiveDivergence(Langevin(10, 0.5), 0.01),
    }
    table = {name: ScoreMatching(LogUniform(), criterion, one) for name, criterion in criteria.items()}
    persistent = PersistentContrastiveDivergence(Langevin(10, 0.5), BATCH, 0.05)
    return table | {"persistent CD-10": ScoreMatching(Fixed(SCHEDULE.t_min), persistent, one)}


def train(
    objective: ScoreMatching, data: Tensor, sigma_data: float, seconds: float, seed: int
) -> tuple[nn.Module, float]:
    """A model trained for so many seconds by Adam, its rate falling to zero; and seconds a step."""
    torch.manual_seed(seed)
    model = EnergyDenoiser(MLP((2,), 128, 2), SCHEDULE, edm_f(sigma_data), sigma_data)
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    levels, noise = Stream(seed, "levels"), Stream(seed, "training noise")
    start, step = time.process_time(), 0
    while (share := (time.process_time() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 100) * (1 - share)
        first = step * BATCH % (len(data) - BATCH)
        u = stratified(levels.uniform(BATCH, step=step))
        loss = objective(model, data[first : first + BATCH], Noise(noise, range(BATCH), step), u).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
    return model, (time.process_time() - start) / step


def score_errors(model: EnergyDenoiser, truth: Truth, rows: int = 2000, levels: int = 16) -> tuple[float, float]:
    """The errors of the docstring, at the lowest level and over all."""
    wrong, right = [], []
    for number, t in enumerate(grids.geometric(SCHEDULE, levels)):
        x = truth.sample(rows, 1000 + number, t)
        exact = truth.score(x, t)
        with torch.no_grad():
            learned = model.score(x.float(), t).double()
        wrong.append(float((learned - exact).square().sum(1).mean() * t**2))
        right.append(float(exact.square().sum(1).mean() * t**2))
    return (wrong[-1] / right[-1]) ** 0.5, (sum(wrong) / sum(right)) ** 0.5


def log_normaliser_on_a_grid(model: EnergyDenoiser, width: float = 9.0, points: int = 721) -> float:
    """log Z at the lowest level by the midpoint rule: cells of 0.025, a quarter of the narrowest that noise leaves."""
    side = torch.linspace(-width, width, points)
    with torch.no_grad():
        rows = [model.energy(torch.cartesian_prod(x[None], side), SCHEDULE.t_min).double() for x in side]
    cell = 2 * width / (points - 1)
    return float(torch.logsumexp(-torch.cat(rows), 0)) + 2 * float(torch.tensor(cell, dtype=torch.float64).log())


def importance(model: EnergyDenoiser | Truth) -> Normaliser:
    """Annealed importance sampling down 60 levels."""
    grid = grids.geometric(SCHEDULE, 60)
    return annealed_importance(model, 2000, (2,), grid, MetropolisLangevin(2, 1.0), seed=0)


def within(apart: Tensor, x: Tensor, truth: Truth) -> float:
    """The mean size of an error (B,) less its own mean over the rows nearest each component."""
    nearest = torch.cdist(x, truth.means).argmin(1)
    sums = torch.zeros(len(truth.means), 2, dtype=torch.float64)
    sums.index_add_(0, nearest, torch.stack((apart, torch.ones_like(apart)), dim=1))
    return float((apart - (sums[:, 0] / sums[:, 1])[nearest]).abs().mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mixture = toy_mixture()
    covariances = torch.einsum("kij,kj,klj->kil", mixture.eigenvectors, mixture.eigenvalues, mixture.eigenvectors)
    truth = Truth(mixture.weights, mixture.means, covariances, SCHEDULE)
    data, held_out = truth.sample(200_000, 1).float(), truth.sample(4000, 2, SCHEDULE.t_min)
    known = importance(truth)
    print(f"the mixture itself: log Z {known.log_normaliser:+.4f} ± {known.std_error:.4f}, truth 0")
    columns = " ".join(f"{name:>8}" for name in ("ms", "lowest", "all", "nats", "within"))
    print(f"{'objective':20}{columns}   log Z ± error, truth, effective rows")
    for name, objective in objectives(truth.sigma_data).items():
        model, seconds = train(objective, data, truth.sigma_data, arguments.seconds, arguments.seed)
        lowest, overall = score_errors(model, truth)
        found, exact = importance(model), log_normaliser_on_a_grid(model)
        with torch.no_grad():
            log_prob = found.log_prob(model, held_out.float())
        apart = log_prob - truth.log_prob(held_out, SCHEDULE.t_min)
        print(
            f"{name:20}{1e3 * seconds:8.2f} {lowest:8.3f} {overall:8.3f} "
            f"{float(apart.abs().mean()):8.3f} {within(apart, held_out, truth):8.3f}   "
            f"{found.log_normaliser:+.4f} ± {found.std_error:.4f}, {exact:+.4f}, {found.effective_size:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
