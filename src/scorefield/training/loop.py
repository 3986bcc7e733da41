"""The training loop as a generator of steps: what to do with them, logging, saving or stopping, is the caller's."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import TrainingError
from scorefield.model import Denoiser
from scorefield.objectives.matching import ScoreMatching
from scorefield.training.averages import PowerAverage
from scorefield.training.draws import Draw, Draws
from scorefield.training.held_out import HeldOut, HeldOutLoss
from scorefield.training.optimiser import Optimiser
from scorefield.training.rows import Rows
from scorefield.training.settings import TrainingSettings
from scorefield.training.threads import Threads

EVALUATIONS = 40  # of the held-out loss, evenly over training
_CHECK_EVERY = 20  # steps between looks at the loss on a GPU, where each look waits for it


@dataclass(frozen=True)
class Step:
    """One optimisation step.

    Args:
        number: counted from 1.
        losses: of the rows of the batch, (B,).
        gradient_norm: before clipping, ().
        learning_rate: used.
        share: of training that is done, in [0, 1].
        seconds: of training so far, over all runs.
        held_out: the held-out loss, where this step measured it.
    """

    number: int
    losses: Tensor
    gradient_norm: Tensor
    learning_rate: float
    share: float
    seconds: float
    held_out: HeldOutLoss | None

    @property
    def loss(self) -> Tensor:
        """Mean over the batch, ()."""
        return self.losses.mean()

    @property
    def std_error(self) -> Tensor:
        """Of that mean, as if rows and times were drawn freely; strata make it smaller, pairs larger, ()."""
        return self.losses.std(correction=0) / len(self.losses) ** 0.5


class Trainer:
    """A model, its objective and its rows on the way to the minimum.

    Every random number of step n is a function of the seed and n, so that a trainer that loads the state of step n goes
    on with the very steps it would have done.

    Args:
        model: trained in place; `best` gives the averaged weights.
        objective: the loss.
        rows: to train on.
        held_out: for the held-out loss, may be empty.
        settings: complete, nothing left to `auto`.
        seed: of order, noise and times.
    """

    def __init__(
        self,
        model: Denoiser,
        objective: ScoreMatching,
        rows: Rows,
        held_out: Rows,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        if settings.batch is None or settings.learning_rate is None or not (settings.steps or settings.budget):
            raise TrainingError("training needs batch, learning_rate and steps or budget")
        self.model, self.objective, self.rows, self.settings = model, objective, rows, settings
        self.batch, self.learning_rate = settings.batch, settings.learning_rate
        self.average = PowerAverage(model, settings.average)
        self._parameters = list(model.parameters())
        self.device = self._parameters[0].device
        self.held_out_rows = held_out.numbers
        measure = objective.held_out()
        self._held_out = HeldOut(held_out, measure, seed) if len(held_out) and measure is not None else None
        self._draws = Draws(len(rows), self.batch, seed, settings.antithetic is True, self.device)
        self._optimiser = Optimiser(model, muon=settings.optimiser == "muon", beta2=settings.beta2)
        self.number = 0
        self.seconds = 0.0
        self.evaluations = 0
        self.worse = 0
        self.last_loss: HeldOutLoss | None = None
        self.best_loss: HeldOutLoss | None = None
        self.stopped_early = False
        self._best: dict[str, Tensor] = {}
        self._best_rows: Tensor | None = None

    def share(self) -> float:
        """How much of training is done, in [0, 1]: by steps or by seconds, whichever is farther."""
        by_steps = self.number / self.settings.steps if self.settings.steps else 0.0
        by_time = self.seconds / self.settings.budget if self.settings.budget else 0.0
        return min(1.0, max(by_steps, by_time))

    def __iter__(self) -> Iterator[Step]:
        """Steps until training is done; stopping to iterate stops training, iterating again goes on."""
        self.model.train()
        # Another number of threads may add up in another order: only a run whose length depends on time anyway tries.
        tuned = self.device.type == "cpu" and self.settings.budget is not None
        before = torch.get_num_threads()
        try:
            yield from self._steps(Threads(before) if tuned else None)
        finally:
            torch.set_num_threads(before)

    def _steps(self, threads: Threads | None) -> Iterator[Step]:
        while self.share() < 1 and not self.stopped_early:
            if threads is not None:
                threads.before_step()
            start = time.perf_counter()
            losses, norm, rate = self._update()
            taken = time.perf_counter() - start
            self.seconds += taken
            if threads is not None:
                threads.after_step(taken)
            held_out = self._evaluate()  # takes seconds too, which may end the budget
            yield Step(self.number, losses, norm, rate, self.share(), self.seconds, held_out)

    def best(self) -> Denoiser:
        """The averaged model as it is now, or at its best held-out loss if that has risen since, beyond chance.

        The lowest of many noisy losses is a poor choice among weights that hardly differ: training ends at its best.

        Raises:
            TrainingError: when its weights are not finite.
        """
        model = copy.deepcopy(self.average.model)
        if self.worse:
            model.load_state_dict(self._best)
        self._check_weights(model)
        return model

    def held_out_loss(self) -> HeldOutLoss | None:
        """Of the model that `best` returns, None where nothing was held out."""
        return self.best_loss if self.worse else self.last_loss

    def _update(self) -> tuple[Tensor, Tensor, float]:
        rate = self._rate()
        drawn = self._draws.at(self.number)
        x0, condition = self.rows.take(self.rows.numbers[drawn.rows], drawn.offsets)
        model = self.model if condition is None else self.model.given(condition)
        self._optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            losses = self.objective(model, x0, drawn.noise, drawn.u)
        # Outside autocast, which has no part in the backward pass.
        loss = losses.mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.clip, foreach=True)
        if self.device.type == "cpu" or self.number % _CHECK_EVERY == 0:
            self._check_finite(loss, norm, losses, drawn)
        self._optimiser.step(rate)
        self.number += 1
        self.average.update(self.model, self.number)
        return losses.detach(), norm.detach(), rate

    def _rate(self) -> float:
        """The learning rate: up over the first share, down to zero over the last."""
        share, settings = self.share(), self.settings
        # The share of steps alone is zero at the first step; half a step keeps the rate positive.
        up = (share + 0.5 / (settings.steps or 1000)) / settings.warmup if settings.warmup else 1.0
        down = (1 - share) / settings.decay if settings.decay else 1.0
        return self.learning_rate * min(1.0, up, down)

    def _evaluate(self) -> HeldOutLoss | None:
        """The held-out loss at every 1/EVALUATIONS of training; keeps the best weights, stops when long past them."""
        if self._held_out is None or self.share() * EVALUATIONS < self.evaluations + 1:
            return None
        start = time.perf_counter()
        self.evaluations = int(self.share() * EVALUATIONS)
        loss, rows = self._held_out(self.average.model)
        self.last_loss = loss
        if self.best_loss is None or self._best_rows is None or loss.mean < self.best_loss.mean:
            self.best_loss, self._best_rows, self.worse = loss, rows, 0
            self._best = {name: value.clone() for name, value in self.average.model.state_dict().items()}
        else:
            # A plateau is no reason to stop: the falling learning rate brings the loss down once more at the end. Only
            # a loss that has risen, row by row and beyond chance, says that the rest of training would overfit.
            rise = rows - self._best_rows
            risen = float(rise.mean()) > 2 * float(rise.std()) / len(rise) ** 0.5
            self.worse = self.worse + 1 if risen and self.settings.patience else 0
            self.stopped_early = 0 < (self.settings.patience or 0) <= self.worse
        self.seconds += time.perf_counter() - start
        return loss

    def _check_finite(self, loss: Tensor, norm: Tensor, losses: Tensor, drawn: Draw) -> None:
        if loss.isfinite() and norm.isfinite():
            return
        times = self.objective.times.quantile(drawn.u, self.model.schedule)
        bad = (~losses.isfinite()).nonzero().flatten().tolist()[:5]
        where = [(int(self.rows.numbers[drawn.rows[i]]), float(times[i])) for i in bad]
        raise TrainingError(
            f"step {self.number + 1}: loss {loss.item():g}, gradient norm {norm.item():g}; "
            f"(row, t) of losses that are not finite: {where or 'none, the gradient alone'}; "
            "a smaller --set training.learning_rate or training.precision=float32 may help"
        )

    def _check_weights(self, model: Denoiser) -> None:
        bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
        if bad:
            raise TrainingError(
                f"step {self.number}: {len(bad)} weights are not finite, {bad[0]} the first; "
                "a smaller --set training.learning_rate or training.precision=float32 may help"
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on: tensors by name, and plain values.

        Raises:
            TrainingError: when weights are not finite: from such a state nothing goes on.
        """
        self._check_weights(self.model)
        self._check_weights(self.average.model)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        if self._best_rows is not None:
            tensors["best_rows"] = self._best_rows
        tensors |= {f"optimiser.{name}": value for name, value in self._optimiser.state().items()}
        # Only persistent chains have a state of their own.
        if hasattr(self.objective.criterion, "state"):
            tensors |= {f"criterion.{name}": value for name, value in self.objective.criterion.state().items()}
        last, best = (None if loss is None else loss.to_json() for loss in (self.last_loss, self.best_loss))
        return tensors, {
            "step": self.number,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
            "worse": self.worse,
            "stopped_early": self.stopped_early,
            "last_loss": last,
            "best_loss": best,
        }

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from a state of the same recipe."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.average.model.load_state_dict(part("average."))
        self._best, self._best_rows = part("best."), tensors.get("best_rows")
        self._optimiser.load_state(part("optimiser."))
        if hasattr(self.objective.criterion, "load_state"):
            self.objective.criterion.load_state(part("criterion."))
        self.number, self.seconds = values["step"], values["seconds"]
        self.evaluations, self.worse = values["evaluations"], values["worse"]
        self.stopped_early = values["stopped_early"]
        self.last_loss, self.best_loss = (
            None if loss is None else HeldOutLoss.from_json(loss) for loss in (values["last_loss"], values["best_loss"])
        )
