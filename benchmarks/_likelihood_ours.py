"""This library's log p as a contender among the peers'."""

from __future__ import annotations

from _likelihood_problems import SCHEDULES, Answer, Contender, Problem
from torch import Tensor

from scorefield.likelihood.log_prob import log_prob

OURS = "ours"
DEFAULT = 1e-3  # the tolerance of log_prob


def ours(path: str, probes: int | None = None, tolerances: tuple[float, ...] = (DEFAULT,)) -> Contender:
    """log_prob with the exact trace, or with so many probes.

    Args:
        path: a schedule by name; only the range of levels matters.
        probes: None for the exact trace.
        tolerances: in nats.
    """
    schedule = SCHEDULES[path]

    def compute(problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer:
        model = problem.model(schedule)
        found = log_prob(model, x, tolerance=tolerance, probes=probes, seed=seed)
        evaluations, traces = (float(count.double().mean()) for count in (found.evaluations, found.traces))
        asked = model.rows / len(x)
        if asked > evaluations + traces + 1e-6:
            raise RuntimeError(f"{asked} evaluations for a row, but {evaluations} and {traces} with trace are told")
        return Answer(found.value, evaluations + traces, traces, found.std_error)

    return Contender(OURS, path if probes is None else f"{path}, {probes} probes", compute, tolerances)
