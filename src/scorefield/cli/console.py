"""What long commands show: sentences, and one line with loss, rate and time left."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from scorefield.drawing import Progress
from scorefield.errors import Interrupted
from scorefield.training.loop import Step

_PLAIN_SECONDS = 10.0  # between lines where the output is no terminal
_TERMINAL_SECONDS = 0.2  # between lines of drawing on a terminal


class Console:
    """The reporter of the command line; SIGINT or SIGTERM asks it to stop after a step, a second one stops at once."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._printed = -_PLAIN_SECONDS
        self._open_line = False
        self._stop = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for kind in (signal.SIGINT, signal.SIGTERM):
            self._before[kind] = signal.signal(kind, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_line()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        self.say("stopping soon; once more stops at once")

    def say(self, text: str) -> None:
        """A sentence on a line of its own."""
        self._close_line()
        print(text, file=sys.stderr, flush=True)

    def step(self, step: Step, loss: float, std_error: float, rate: float, seconds_left: float) -> None:
        """The line of progress: rewritten in place on a terminal, every ten seconds elsewhere."""
        now = time.monotonic()
        if not self._terminal and now - self._printed < _PLAIN_SECONDS and step.share < 1:
            return
        self._printed = now
        held_out = f", held-out {step.held_out.mean:.4f}" if step.held_out else ""
        text = (
            f"{step.share:4.0%}  step {step.number}, loss {loss:.4f} ± {std_error:.2g}{held_out}, {rate:.3g} steps/s, "
            f"{clock(step.seconds)} done, {clock(seconds_left)} left"
        )
        self.line(text)

    def drawing(self, done: str = "drawn") -> Callable[[Progress], None]:
        """What to call with how far a drawing, or what else is done, is: it shows percent, rates, and time left.

        Once a signal asked to stop it raises Interrupted, unless all is done: finished work is not thrown away.
        """
        start = shown = time.monotonic()
        pause = _TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS

        def tell(progress: Progress) -> None:
            nonlocal shown
            share, rows = progress.share, progress.rows
            if self._stop and share < 1:
                raise Interrupted(f"stopped when {share:.0%} of {rows} rows were {done}, nothing was written")
            now = time.monotonic()
            if share <= 0 or now - shown < pause:
                return
            shown = now
            taken = now - start
            self.line(
                f"{share:4.0%} of {rows} rows, {share * rows / taken:.3g} rows/s, "
                f"{progress.evaluations / taken:.3g} evaluations/s, "
                f"{clock(taken)} done, {clock(taken * (1 / share - 1))} left"
            )

        return tell

    def line(self, text: str) -> None:
        """A line that the next one replaces, on a terminal."""
        if self._terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._open_line = True
        else:
            print(text, file=sys.stderr, flush=True)

    def should_stop(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stop

    def _close_line(self) -> None:
        if self._open_line:
            print(file=sys.stderr)
            self._open_line = False


def clock(seconds: float) -> str:
    """Seconds as 12s, 3m05s or 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
