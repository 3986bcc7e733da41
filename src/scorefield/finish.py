"""After training, at a small share of its cost: solvers fitted to the model, and held-out rows to rank others by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from scorefield.bundle import Bundle
from scorefield.chunks import is_out_of_memory
from scorefield.data.kinds import Data
from scorefield.errors import SamplingError, ScorefieldError
from scorefield.progress import Reporter
from scorefield.samplers.choice import COST
from scorefield.scoring import Scoring

_FITTING_SHARE = 0.1  # of the cost of training, for fitting solvers
_FEWEST_PATHS, _MOST_PATHS, _MOST_NUMBERS = 64, 2048, 1 << 18
_FEWEST_LONG_PATHS, _LONG_ROW = 16, 64  # a long row says as much of a solver as many short ones
_RANKING_SHARE = 0.05  # for log p of held-out rows
_FEWEST_RANKED, _MOST_RANKED = 100, 1000


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
