"""How many threads a step takes: the number that is fastest now, found by timing, and again when steps get slower.

Threads of one operation wait for the slowest of them. Where another program holds a core, each operation waits for the
scheduler, and a step on two threads can take a hundred times as long as on one; and small networks on many cores lose
more by waiting than they gain.
"""

from __future__ import annotations

import statistics
import time

import torch

_TRIES = 2  # steps timed with each number of threads
_PAUSE = 10.0  # seconds between trials at least
_COST = 20.0  # and at least so many times what the last trial took
_SLOWER = 2.0  # steps this much slower than the trial's best call for another before its time


class Threads:
    """Sets torch's number of threads for each step of a loop.

    Args:
        most: threads at most; halves of it are tried too.
    """

    def __init__(self, most: int) -> None:
        self.counts = [most]
        while self.counts[-1] > 1:
            self.counts.append(self.counts[-1] // 2)
        self.chosen = most
        self._tried: int | None = None
        self._timed: dict[int, list[float]] = {}
        self._recent: list[float] = []
        self._next_trial = 0.0
        self._trial_began = 0.0
        self._expected = float("inf")

    def before_step(self) -> None:
        """Set the number of threads of the coming step."""
        self._tried = self._on_trial()
        torch.set_num_threads(self._tried or self.chosen)

    def after_step(self, seconds: float) -> None:
        """Take in how long the step took."""
        if self._tried is None:
            self._recent = [*self._recent[-4:], seconds]
            return
        if not self._timed:
            self._trial_began = time.monotonic() - seconds
        self._timed.setdefault(self._tried, []).append(seconds)
        if self._on_trial() is None:
            self._finish_trial()

    def _on_trial(self) -> int | None:
        """The number of threads to be timed now, None between trials."""
        for count in self.counts:
            if 0 < len(self._timed.get(count, ())) < _TRIES:
                return count
        untried = [count for count in self.counts if count not in self._timed]
        if self._timed:
            return untried[0] if untried else None
        return self.counts[0] if len(self.counts) > 1 and self._is_due() else None

    def _is_due(self) -> bool:
        slow = len(self._recent) == 5 and statistics.median(self._recent) > _SLOWER * self._expected
        return time.monotonic() > self._next_trial - (_PAUSE / 2 if slow else 0.0)

    def _finish_trial(self) -> None:
        best = {count: min(seconds) for count, seconds in self._timed.items()}
        self.chosen = min(best, key=lambda count: best[count])
        self._expected = best[self.chosen]
        now = time.monotonic()
        self._next_trial = now + max(_PAUSE, _COST * (now - self._trial_began))
        self._timed, self._recent = {}, []
