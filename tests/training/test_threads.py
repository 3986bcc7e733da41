"""The number of threads follows the times of steps, in a world with a clock of its own."""

from collections.abc import Callable, Iterator

import pytest
import torch

from scorefield.training import threads
from scorefield.training.threads import Threads


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class World:
    """Steps whose seconds depend on the number of threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.used, self.asked = 100.0, [], 1
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(torch, "set_num_threads", self._set)

    def _set(self, count: int) -> None:
        self.asked = count

    def run(self, tuner: Threads, cost: Callable[[int], float], seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            tuner.before_step()
            self.used.append(self.asked)
            self.now += cost(self.asked)
            tuner.after_step(cost(self.asked))


def test_the_fastest_number_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    world, tuner = World(monkeypatch), Threads(8)
    world.run(tuner, lambda count: {8: 0.05, 4: 0.02, 2: 0.03, 1: 0.06}[count], 5)
    assert tuner.chosen == 4
    assert set(world.used) == {8, 4, 2, 1}
    assert world.used.count(4) > 0.9 * len(world.used)


def test_a_core_that_is_taken_and_given_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, tuner = World(monkeypatch), Threads(2)
    free: Callable[[int], float] = lambda count: 0.05 / count  # noqa: E731
    taken: Callable[[int], float] = lambda count: 0.05 if count == 1 else 2.0  # noqa: E731
    world.run(tuner, free, 30)
    assert tuner.chosen == 2
    world.run(tuner, taken, 30)
    assert tuner.chosen == 1
    world.run(tuner, free, 200)
    assert tuner.chosen == 2


def test_trials_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    world, tuner = World(monkeypatch), Threads(2)
    world.run(tuner, lambda count: 3.0 if count == 2 else 0.05, 600)
    assert 3.0 * world.used.count(2) < 0.1 * 600


def test_one_thread_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    world, tuner = World(monkeypatch), Threads(1)
    world.run(tuner, lambda count: 0.05, 30)
    assert set(world.used) == {1}
