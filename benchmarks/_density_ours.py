"""Ours: an ensemble of denoisers, trained as `fit` trains, whose mean is a denoiser and so has a density.

What the recipe sets for likelihood, beside the defaults of `auto`:

    times = importance          the law of noise that maximum likelihood asks for
    σ_min = nearest/(2√D)       half the median distance of nearest neighbours per element, without the usual cap at
                                0.02 σ_data: what lies below is the rows' own places, and no property of the law
    width, steps                128 and 400 passes over the rows: wider and shorter than `auto`
    held_out, patience          a tenth and 5, also where a plain fit of so few rows keeps none out
    members                     each keeps other rows out, so that together they see all; of E[x0 given x_t] the mean
                                over members is taken, at every level, and its probability flow has one density

The first member is trained with a quarter of that σ_min too, which is gone on with where it is better on the rows kept
out, beyond chance. log p is read at that level among σ_min × (1, 1.5, 2) which is best on the rows kept out.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from _density_peers import Fitted
from torch import Tensor, nn

import scorefield as sf
from scorefield.build import build_model, build_objective
from scorefield.likelihood.log_prob import log_prob
from scorefield.model import Denoiser
from scorefield.moments import measure_moments
from scorefield.noise import Time
from scorefield.noise_range import measure_noise_range
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise
from scorefield.recipes import NetworkSettings, NoiseSettings, ObjectiveSettings, Recipe
from scorefield.resolve import DataFacts, resolve
from scorefield.training.loop import Trainer
from scorefield.training.rows import Rows, split_held_out
from scorefield.training.settings import TrainingSettings

LEVELS = (1.0, 1.5, 2.0)  # times σ_min, at which log p is tried
_PASSES, _BATCH = 400, 256  # over the rows
FLOORS = (1.0, 0.25)  # times the rule for σ_min, between which the first member chooses
_HELD_OUT = 0.1
_LOOKED_AT = 200  # held-out rows of each member at which it is tried
_TOLERANCE = 1e-2  # nats a row, a hundredth of what differs between methods


class Averaged(Denoiser):
    """The mean of E[x0 given x_t] over denoisers of one schedule.

    Args:
        members: the denoisers.
    """

    def __init__(self, members: list[Denoiser]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        first = members[0]
        self.schedule, self.sigma_data, self.moments = first.schedule, first.sigma_data, first.moments

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        found = [member(x_t, level) for member in self.members]
        share = 1 / len(found)
        x0, epsilon = (sum(parts) * share for parts in zip(*((one.x0, one.epsilon) for one in found), strict=True))
        return Estimate(x0, epsilon, level)


@dataclass(frozen=True)
class Settings:
    """What is varied.

    Args:
        members: of the ensemble.
        width: of the network, None for that of `auto`.
        steps: of training, None for 400 passes over the rows.
        times: the law of noise.
        sigma_min: the smallest noise, None for the rule above.
    """

    members: int = 4
    width: int | None = 128
    steps: int | None = None
    times: str | None = "importance"
    sigma_min: float | None = None


def recipe(z: Tensor, settings: Settings) -> Recipe:
    """The complete recipe for encoded rows (n, d)."""
    noise_range = measure_noise_range(z)
    sigma_min = settings.sigma_min or nearest_per_element(z)
    batch = min(len(z), _BATCH)
    asked = Recipe(
        name="density",
        noise=NoiseSettings(sigma_min=sigma_min),
        objective=ObjectiveSettings(times=settings.times),
        network=NetworkSettings(width=settings.width),
        training=TrainingSettings(
            steps=settings.steps or round(_PASSES * len(z) / batch), batch=batch, held_out=_HELD_OUT, patience=5
        ),
    )
    facts = DataFacts(tuple(z.shape[1:]), len(z), noise_range, torch.device("cpu"))
    return resolve(asked, facts)[0]


def nearest_per_element(z: Tensor) -> float:
    """Half the median distance of nearest neighbours, per element."""
    # Products would leave a rounding error between a row and itself.
    distances = torch.cdist(z[:4000], z, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances.where(distances > 0, math.inf).amin(1).median()) / (2 * math.sqrt(z.shape[1]))


def train(complete: Recipe, z: Tensor, seed: int) -> tuple[Denoiser, np.ndarray]:
    """A denoiser trained as `fit` would, and the numbers of the rows that it kept out."""
    training, held_out = split_held_out(len(z), _HELD_OUT, 2000, seed)

    def take(numbers: np.ndarray, offsets: Noise) -> tuple[Tensor, None]:
        return z[torch.from_numpy(numbers.copy())], None

    model = build_model(complete, tuple(z.shape[1:]), 0, seed)
    model.moments = measure_moments(z)
    rows = Rows(training, take), Rows(held_out, take)
    trainer = Trainer(model, build_objective(complete), *rows, complete.training, seed)
    for _ in trainer:
        pass
    return trainer.best().eval().requires_grad_(False), held_out


def at_level(model: Denoiser, z: Tensor, sigma: float) -> np.ndarray:
    """log p of rows under the model's density at a level, (n,) nats."""
    t = float(model.schedule.time_of_sigma(torch.tensor(sigma, dtype=torch.float64)))
    t = min(max(t, model.schedule.t_min), model.schedule.t_max)
    return log_prob(model, z, t, tolerance=_TOLERANCE).value.numpy()


def ensemble(z: Tensor, seed: int, settings: Settings) -> tuple[Denoiser, float, str]:
    """The trained ensemble, the level at which to read its density, and what was chosen.

    Args:
        z: encoded rows (n, d).
        seed: the members' are seed·members, seed·members + 1, …
        settings: what is varied.
    """
    first = seed * settings.members
    nearest = nearest_per_element(z)
    floors = [settings.sigma_min] if settings.sigma_min else [factor * nearest for factor in FLOORS]
    tried = [_Trial.of(z, replace(settings, sigma_min=floor), first) for floor in floors]
    best = tried[0]
    for trial in tried[1:]:
        gain = trial.best() - best.best()
        # Few rows are kept out, and a floor that is too low costs more than one that is too high.
        best = trial if gain.mean() > 2 * gain.std() / len(gain) ** 0.5 else best
    trials = [best, *(_Trial.of(z, best.settings, first + k) for k in range(1, settings.members))]
    total = {level: sum(float(trial.scores[level].mean()) for trial in trials) for level in best.scores}
    model = Averaged([trial.model for trial in trials]) if len(trials) > 1 else best.model
    level = max(total, key=lambda level: total[level])
    return model, level, f"{len(trials)} members from σ = {best.settings.sigma_min:.3g} on, log p at {level:.3g}"


@dataclass(frozen=True)
class _Trial:
    """A member, its settings, and log p of the rows that it kept out at each level."""

    model: Denoiser
    settings: Settings
    scores: dict[float, np.ndarray]

    def best(self) -> np.ndarray:
        """At the level where its mean is highest."""
        return max(self.scores.values(), key=lambda each: float(each.mean()))

    @staticmethod
    def of(z: Tensor, settings: Settings, seed: int) -> _Trial:
        model, held = train(recipe(z, settings), z, seed)
        rows = z[torch.from_numpy(held[:_LOOKED_AT].copy())]
        levels = [factor * (settings.sigma_min or 0) for factor in LEVELS]
        return _Trial(model, settings, {level: at_level(model, rows, level) for level in levels})


def score_flow(z: np.ndarray, seed: int, settings: Settings) -> Fitted:
    """The ensemble fitted to rows (n, d), as `ensemble`."""
    start = time.perf_counter()
    model, sigma, choice = ensemble(torch.from_numpy(z).float(), seed, settings)
    seconds = time.perf_counter() - start
    return Fitted(lambda x: at_level(model, torch.from_numpy(x).float(), sigma), choice, seconds)


def plain_fit(x: np.ndarray, seed: int) -> Fitted:
    """`fit` without options, on rows (n, d) in their own units as a table, as the density of these."""
    start = time.perf_counter()
    run = sf.fit(_as_table(x), seed=seed)
    seconds = time.perf_counter() - start
    return Fitted(lambda rows: run.log_prob(_as_table(rows)).log_prob.numpy(), "no options", seconds)


def _as_table(x: np.ndarray) -> pa.Table:
    return pa.table({f"column {k}": column for k, column in enumerate(x.T)})
