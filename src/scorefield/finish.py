"""After training, at a small share of its cost: shrinkage, solvers fitted to the model, held-out rows to rank by."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scorefield.bundle import Bundle
from scorefield.chunks import is_out_of_memory
from scorefield.data.kinds import Data
from scorefield.errors import SamplingError, ScorefieldError
from scorefield.progress import Reporter
from scorefield.randomness import Noise, Stream
from scorefield.samplers.choice import COST
from scorefield.scoring import Scoring
from scorefield.shrinkage import Shrinkage, gain, shares, to_gaussian

_FITTING_SHARE = 0.1  # of the cost of training, for fitting solvers
_FEWEST_PATHS, _MOST_PATHS, _MOST_NUMBERS = 64, 2048, 1 << 18
_FEWEST_LONG_PATHS, _LONG_ROW = 16, 64  # a long row says as much of a solver as many short ones
_RANKING_SHARE = 0.05  # for log p of held-out rows
_FEWEST_RANKED, _MOST_RANKED = 100, 1000
_SHRINKAGE_SHARE = 0.1  # of the cost of training, at most
_KNOTS, _DRAWS, _FEWEST_JUDGES = 17, 2000, 10  # levels, noisy rows at each, and held-out rows that they are made of
_FARTHEST = 10.0  # log σ/α of a level, as of a flow, whose noise drowns all


def with_shrinkage(
    bundle: Bundle, data: Data, held_out: np.ndarray, trained: float, seed: int, report: Reporter
) -> Bundle:
    """The bundle with what its network says beyond a Gaussian kept as far as held-out rows ask for (`shrinkage`).

    Neighbouring levels are taken together. All is kept where rows are not likelier with less, by more than a standard
    error: each half of them is asked of the shares that the other half has found. Networks that are not whitened, fewer
    than ten rows, and a training that does not pay for it ten times over are left as they are.

    Args:
        bundle: just trained.
        data: all of it.
        held_out: the numbers of the rows that were not trained on.
        trained: what training cost, in evaluations of a row.
        seed: of the noise.
        report: where it is said how much is kept.
    """
    numbers = np.tile(held_out, -(-_DRAWS // max(1, len(held_out))))
    paid = 2 * _KNOTS * len(numbers) <= _SHRINKAGE_SHARE * trained
    if not bundle.denoiser.whitened or len(held_out) < _FEWEST_JUDGES or not paid:
        return bundle
    try:
        knots, asked, size = _asked(bundle, data, numbers, len(held_out), seed)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        report.say(f"all that the network says is kept: memory ran out as held-out rows were asked ({error})")
        return bundle
    halves = slice(0, None, 2), slice(1, None, 2)
    gains = [
        gain(knots, asked[:, here], size[:, here], shares(asked[:, there], size[:, there]))
        for here, there in (halves, halves[::-1])
    ]
    better = torch.cat(gains)
    mean, std_error = float(better.mean()), float(better.std()) / math.sqrt(len(better))
    kept = shares(asked, size)
    if not mean > std_error or not bool(kept.isfinite().all()):
        return bundle
    shrunk = copy.copy(bundle.denoiser)
    shrunk.shrinkage = Shrinkage(tuple(knots.tolist()), tuple(kept.tolist()))
    report.say(f"{shrunk.shrinkage.describe()}: held-out rows are likelier so by {mean:.2g} ± {std_error:.1g} nats")
    return replace(bundle, denoiser=shrunk)


@torch.no_grad()
def _asked(bundle: Bundle, data: Data, numbers: np.ndarray, rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Levels log σ/α, (K,), and E⟨F, x0 − g⟩ and E‖F‖² of rows in nats per unit of these, (K, rows) each."""
    model, schedule = bundle.denoiser, bundle.denoiser.schedule
    every, offsets, noise = range(len(numbers)), *(Stream(seed, f"shrinkage {what}") for what in ("offsets", "noise"))
    x0, condition = bundle.features.take(data, bundle.device)(numbers, Noise(offsets, every, 0))
    ends = schedule.at(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    low, high = (-ends.log_snr / 2).clamp(-_FARTHEST, _FARTHEST).tolist()
    knots = torch.linspace(low, high, _KNOTS, dtype=torch.float64)
    full = model if condition is None else model.given(condition)
    bare = copy.copy(full)
    bare.shrinkage = to_gaussian(low, high)
    found = []
    for place, t in enumerate(schedule.time_of(-2 * knots)):
        x_t = schedule.add_noise(x0, t, Noise(noise, every, place).like(x0))
        gaussian = bare(x_t, t).x0.double()
        said, rest = full(x_t, t).x0.double() - gaussian, x0.double() - gaussian
        sums = torch.stack([(said * rest).flatten(1).sum(1), said.square().flatten(1).sum(1)]).cpu()
        found.append(sums.reshape(2, -1, rows).mean(1) * math.exp(-2 * float(knots[place])))
    asked, size = torch.stack(found, dim=1)
    return knots, asked, size


def with_solvers(bundle: Bundle, trained: float, seed: int, report: Reporter) -> Bundle:
    """The bundle with solvers fitted to its model, where its recipe leaves the sampler open.

    Args:
        bundle: just trained.
        trained: what training cost, in evaluations of a row.
        seed: of the paths.
        report: where it is said what came of it; a model that cannot be walked stays without, as training is not lost.
    """
    if bundle.recipe.sampler.name not in ("auto", "fitted"):
        return bundle
    paths = _paths(bundle, trained)
    if not paths:
        report.say("no solver was fitted to the model: training was too short, or rows are too long, to pay for it")
        return bundle
    try:
        bundle = bundle.with_solvers(paths, seed=seed)
    except (SamplingError, MemoryError, RuntimeError) as error:
        if not isinstance(error, SamplingError) and not is_out_of_memory(error):
            raise
        report.say(f"no solver was fitted to the model: {error}")
        return bundle
    report.say(_fitted(bundle))
    return bundle


def with_reference(bundle: Bundle, data: Data, held_out: np.ndarray, trained: float, report: Reporter) -> Bundle:
    """The bundle with log p of held-out rows, as many as a small share of what training cost pays for, or none.

    Args:
        bundle: just trained.
        data: all of it.
        held_out: the numbers of the rows that were not trained on.
        trained: what training cost, in evaluations of a row.
        report: where their mean is said, or why there are none though they were paid for.
    """
    cost = Scoring().cost(bundle.features.codec.numbers.gridded)
    count = min(_MOST_RANKED, len(held_out), int(_RANKING_SHARE * trained / cost))
    if count < _FEWEST_RANKED:
        return bundle
    try:
        scores = bundle.log_prob(data.rows(np.sort(held_out[:count])), skip_bad=True)
    except (ScorefieldError, MemoryError, RuntimeError) as error:
        # Training is not lost for what it cannot be ranked by.
        if not isinstance(error, ScorefieldError) and not is_out_of_memory(error):
            raise
        report.say(f"no held-out rows are kept to rank others by: {error}")
        return bundle
    values = scores.log_prob[~scores.log_prob.isnan()]
    if not len(values):
        return bundle
    report.say(f"held-out rows: log p {float(values.mean()):.4g} nats on average over {len(values)}")
    return replace(bundle, reference=values)


def _paths(bundle: Bundle, trained: float) -> int:
    """Along how many paths solvers are fitted: at a small share of what training cost, or not at all."""
    numbers = math.prod(bundle.features.codec.shape)
    paths = min(int(_FITTING_SHARE * trained / COST), _MOST_PATHS, _MOST_NUMBERS // numbers)
    return paths if paths >= (_FEWEST_PATHS if numbers < _LONG_ROW else _FEWEST_LONG_PATHS) else 0


def _fitted(bundle: Bundle) -> str:
    """A sentence on the solvers of a bundle."""
    assert bundle.solvers is not None
    shown = [solver for solver in bundle.solvers.fitted if solver.steps in (5, 10, 20, 50)]
    errors = ", ".join(f"{solver.error:.2g} with {solver.steps}" for solver in shown)
    return f"solvers fitted to the model: error in units of the data's deviation {errors} evaluations"
