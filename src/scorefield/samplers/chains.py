"""Plain chains: one kernel again and again at one level, every draw kept, with what says whether to trust them.

A chain is a row. Its k-th move reads the noise of step k and its own row, so that it is the same in any company, and a
chain that goes on from its last position is the chain that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorefield.diagnostics import Summary, summarise
from scorefield.energies import with_energy
from scorefield.errors import OptionError, SamplingError
from scorefield.model import ScoreModel
from scorefield.noise import Time
from scorefield.randomness import Noise, Stream
from scorefield.samplers.langevin import MetropolisLangevin, Place, step_size
from scorefield.samplers.loop import OnStep
from scorefield.samplers.tuning import DualAveraging

# A corrector for the model it is run with: (model, x, t, noise) -> x.
Kernel = Callable[[Any, Tensor, Time, Noise], Tensor]


@dataclass(frozen=True, eq=False)
class Position:
    """Where chains stand, and all that they need to go on.

    Args:
        x: (C, *shape).
        moves: how often the kernel was called, which is the step of the noise that comes next.
        step: ε of each chain (C,) float64, where it was tuned, and then in place of the kernel's.
    """

    x: Tensor
    moves: int = 0
    step: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of some chains.

    Args:
        draws: (C, N, *shape).
        position: of the end, to go on from.
        acceptance: the share of proposals that each chain accepted after its warm-up, (C,) float64; None for kernels
            that refuse nothing.
    """

    draws: Tensor
    position: Position
    acceptance: Tensor | None

    def summary(self) -> Summary:
        """Mean, deviation, Monte Carlo error, effective sample sizes and R̂ of every element."""
        return summarise(self.draws)


@torch.no_grad()
def run_chains(
    model: ScoreModel,
    start: Tensor | Position,
    kernel: Kernel,
    draws: int,
    *,
    seed: int,
    t: Tensor | float | None = None,
    warmup: int = 0,
    thin: int = 1,
    tune_to: float | None = None,
    rows: range | None = None,
    on_step: OnStep | None = None,
) -> Chains:
    """Walk chains at one level.

    Args:
        model: what the kernel moves in; its density is what the chains are drawn from.
        start: x of every chain (C, *shape), or the position at which others ended.
        kernel: a corrector, such as `Langevin`, `MetropolisLangevin` or `StochasticLangevin`.
        draws: N, kept of each chain.
        seed: of all randomness here.
        t: the level; the lowest of the model's schedule by default.
        warmup: moves before the first draw, not kept; a move is one call of the kernel.
        thin: moves from one draw to the next.
        tune_to: the acceptance for which every chain finds a step of its own while it warms up, and keeps from then on;
            for `MetropolisLangevin`, whose own step is where the search begins. `tuning.BEST_ACCEPTANCE` is the best
            one in many dimensions. None leaves the step as it is.
        rows: which chains of the whole these are; range(C) by default.
        on_step: called as on_step(move, t, x, None) after each move.

    Raises:
        OptionError: for options that fit neither each other nor the kernel.
        SamplingError: for values that are not finite, naming chain, move and level.
    """
    position = start if isinstance(start, Position) else Position(start)
    rows = range(len(position.x)) if rows is None else rows
    _check(position, kernel, rows, draws, warmup, thin, tune_to)
    t = torch.as_tensor(model.schedule.t_min if t is None else t, dtype=torch.float64)
    stream, total = Stream(seed, "chains"), warmup + draws * thin
    noises = (Noise(stream, rows, position.moves + move) for move in range(total))
    if isinstance(kernel, MetropolisLangevin):
        moves = _metropolis(model, kernel, position, t, noises, warmup, tune_to)
    else:
        moves = _plain(model, kernel, position, t, noises)
    kept = position.x.new_empty(len(rows), draws, *position.x.shape[1:])
    accepted = torch.zeros(len(rows), dtype=torch.float64, device=kept.device)
    for number, move in enumerate(moves, start=1 - warmup):  # the first after the warm-up is number 1
        if number >= 1:
            accepted = accepted + (0 if move.accepted is None else move.accepted)
            if number % thin == 0:
                kept[:, number // thin - 1] = move.x
        if on_step is not None:
            on_step(position.moves + warmup + number - 1, t, move.x, None)
    if not kept.isfinite().all():
        chain, draw = (
            int(place[0]) for place in (~kept.isfinite().reshape(len(rows), draws, -1).all(2)).nonzero(as_tuple=True)
        )
        raise SamplingError(
            f"chain {rows[chain]} is not finite by move {position.moves + warmup + (draw + 1) * thin - 1}, "
            f"level t = {float(t):g}: a smaller step may be needed"
        )
    share = accepted / (draws * thin) if move.accepted is not None else None
    return Chains(kept, Position(move.x, position.moves + total, move.step), share)


class _Move(NamedTuple):
    """What a move leaves behind: x, the share accepted (C,), and steps (C,) that were tuned."""

    x: Tensor
    accepted: Tensor | None
    step: Tensor | None


def _plain(model: ScoreModel, kernel: Kernel, start: Position, t: Time, noises: Iterable[Noise]) -> Iterator[_Move]:
    """Moves of a kernel that refuses nothing."""
    x = start.x
    for noise in noises:
        x = kernel(model, x, t, noise)
        yield _Move(x, None, None)


def _metropolis(
    model: ScoreModel,
    kernel: MetropolisLangevin,
    start: Position,
    t: Time,
    noises: Iterable[Noise],
    warmup: int,
    tune_to: float | None,
) -> Iterator[_Move]:
    """Moves by Metropolis' rule, which carry energy and score along, with a step for each chain."""
    energy = with_energy(model, "MetropolisLangevin")
    place, chains = Place.of(energy, start.x, t), len(start.x)
    step = start.step
    if step is None:
        step = step_size(model.schedule, start.x, t, kernel.size, kernel.step).reshape(-1).expand(chains)
    tuning = None if tune_to is None else DualAveraging.begin(step, tune_to)
    for number, noise in enumerate(noises):
        if tuning and number == warmup:
            step, tuning = tuning.settled, None
        present = (tuning.step if tuning else step).reshape(-1, *[1] * (start.x.ndim - 1))
        place, accepted, probability = kernel.moves(energy, place, t, noise, present)
        tuning = tuning and tuning.after(probability)
        yield _Move(place.x, accepted, None if tune_to is None and start.step is None else step)


def _check(
    position: Position, kernel: Kernel, rows: range, draws: int, warmup: int, thin: int, tune_to: float | None
) -> None:
    x, step = position.x, position.step
    if x.ndim < 1 or len(x) < 1 or len(rows) != len(x):
        raise OptionError(f"chains start from (chains, …), one row each, got {tuple(x.shape)} for {len(rows)} chains")
    if draws < 1 or warmup < 0 or thin < 1:
        raise OptionError(f"chains need draws ≥ 1, warmup ≥ 0 and thin ≥ 1, got {draws}, {warmup} and {thin}")
    if not x.isfinite().all():
        raise OptionError("chains start from finite values")
    metropolis = isinstance(kernel, MetropolisLangevin)
    if tune_to is not None and not (metropolis and warmup and 0 < tune_to < 1):
        raise OptionError(
            "tune_to is an acceptance between 0 and 1, for MetropolisLangevin with a warmup, "
            f"got {tune_to} for {type(kernel).__name__} with warmup {warmup}"
        )
    if step is not None and not (metropolis and step.shape == (len(x),)):
        raise OptionError(
            f"a position with steps of its own goes on with MetropolisLangevin, got {type(kernel).__name__}"
        )
