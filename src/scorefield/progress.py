"""What long work tells the user: sentences, and steps with rate and time left."""

from __future__ import annotations

from typing import Protocol

from scorefield.training.loop import Step


class Reporter(Protocol):
    """Where a fit reports to; the command line has one, `Quiet` is the other."""

    def say(self, text: str) -> None:
        """A sentence for the user."""
        ...

    def step(self, step: Step, loss: float, std_error: float, rate: float, seconds_left: float) -> None:
        """Where training is.

        Args:
            step: the newest step.
            loss: mean since the last report.
            std_error: of that mean.
            rate: steps a second.
            seconds_left: until training is done.
        """
        ...

    def should_stop(self) -> bool:
        """Whether to stop after this step, leaving a checkpoint."""
        ...


class Quiet:
    """Says nothing and never stops."""

    def say(self, text: str) -> None:
        """Nothing."""

    def step(self, step: Step, loss: float, std_error: float, rate: float, seconds_left: float) -> None:
        """Nothing."""

    def should_stop(self) -> bool:
        """Never."""
        return False
