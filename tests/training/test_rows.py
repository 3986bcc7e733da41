"""The order of rows: each row once a pass, passes seamless, a function of seed and step alone; held-out rows apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.training.rows import Order, split_held_out

quick = settings(max_examples=80, deadline=None)
sizes = {"count": st.integers(1, 40), "batch": st.integers(1, 100), "seed": st.integers(0, 2**32)}


def run(count: int, batch: int, seed: int, steps: int) -> np.ndarray:
    order = Order(count, batch, seed)
    return np.concatenate([order.at(step) for step in range(steps)])


@quick
@given(**sizes)
def test_law_every_row_comes_once_a_pass_and_passes_join_without_a_gap(count: int, batch: int, seed: int) -> None:
    steps = -(-3 * count // batch)
    taken = run(count, batch, seed, steps)
    assert len(taken) == steps * batch
    for start in range(0, len(taken) - count + 1, count):
        assert sorted(taken[start : start + count].tolist()) == list(range(count))


@quick
@given(**sizes, asked=st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_law_a_steps_rows_do_not_depend_on_what_was_asked_before(
    count: int, batch: int, seed: int, asked: list[int]
) -> None:
    order = Order(count, batch, seed)
    for step in asked:
        np.testing.assert_array_equal(order.at(step), Order(count, batch, seed).at(step))


@quick
@given(**sizes)
def test_law_the_batch_cuts_one_and_the_same_sequence(count: int, batch: int, seed: int) -> None:
    whole = run(count, batch, seed, 6)
    single = run(count, 1, seed, len(whole))
    np.testing.assert_array_equal(whole, single)


def test_seeds_and_passes_have_different_orders() -> None:
    first, other = run(50, 50, 0, 2), run(50, 50, 1, 2)
    assert (first[:50] != first[50:]).any()
    assert (first != other).any()


def test_statistics_every_row_is_as_often_early_as_late() -> None:
    """Mean place of each of 20 rows over 2000 passes within 4.5 standard errors, 1 false alarm in 7000.

    The planted bug, each pass a rotation of the rows by less than half, misses by far.
    """
    passes = 2000
    places = run(20, 20, 0, passes).reshape(passes, 20).argsort(1)
    error = np.sqrt((20**2 - 1) / 12 / passes)
    assert np.abs(places.mean(0) - 9.5).max() < 4.5 * error
    shifts = np.random.default_rng(0).integers(0, 10, passes)
    rotated = np.stack([np.roll(np.arange(20), shift) for shift in shifts]).argsort(1)
    assert np.abs(rotated.mean(0) - 9.5).max() > 20 * error


# -- held-out rows ----------------------------------------------------------------------------------------------------


@quick
@given(count=st.integers(1, 300), share=st.floats(0, 0.9), most=st.integers(0, 50), seed=st.integers(0, 99))
def test_law_training_and_held_out_rows_are_all_rows_and_disjoint(
    count: int, share: float, most: int, seed: int
) -> None:
    training, held_out = split_held_out(count, share, most, seed)
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(count))
    assert training.tolist() == sorted(training.tolist())
    assert len(held_out) <= min(most, share * count)
    assert len(held_out) != 1
    assert len(training) >= 1


@pytest.mark.parametrize(("count", "held"), [(2, 0), (19, 0), (20, 2), (1000, 100), (10**5, 2000)])
def test_few_rows_hold_out_none_and_many_no_more_than_asked(count: int, held: int) -> None:
    assert len(split_held_out(count, 0.1, 2000, seed=0)[1]) == held


def test_the_split_is_a_function_of_the_seed() -> None:
    first, same, other = (split_held_out(200, 0.1, 2000, seed)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert set(first) != set(other)
    # Held-out rows are spread over the data, not its end: files are often sorted.
    assert 60 < first.mean() < 140
