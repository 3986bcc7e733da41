"""Work in chunks that halve when memory runs out: every row once and in order, no other error hidden."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from scorefield.chunks import in_chunks, is_out_of_memory


def exhausted() -> None:
    """What torch raises on the host: half an exabyte is had nowhere."""
    torch.empty(1 << 59)


def raises(error: type[Exception]) -> Callable[[], None]:
    def fail() -> None:
        raise error("out of memory")

    return fail


MEMORY = {"host": raises(MemoryError), "accelerator": raises(torch.OutOfMemoryError), "torch on the host": exhausted}
each_memory = pytest.mark.parametrize("run_out", list(MEMORY.values()), ids=MEMORY)


def limited(most: int, run_out: Callable[[], None], tried: list[range]) -> Callable[[range], list[int]]:
    """Work for which memory runs out beyond so many rows."""

    def work(part: range) -> list[int]:
        tried.append(part)
        if len(part) > most:
            run_out()
        return [row**2 for row in part]

    return work


@each_memory
@pytest.mark.parametrize("most", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("size", [1, 6, 16, 37, 1000])
@pytest.mark.parametrize("rows", [range(0), range(1), range(37), range(5, 42)])
def test_law_chunks_make_the_rows_once_and_in_order(
    run_out: Callable[[], None], most: int, size: int, rows: range
) -> None:
    tried: list[range] = []
    made = list(in_chunks(rows, size, limited(most, run_out, tried)))
    assert [row for part, _ in made for row in part] == list(rows)
    assert [value for _, done in made for value in done] == [row**2 for row in rows]
    assert all(done == [row**2 for row in part] for part, done in made)
    assert max((len(part) for part, _ in made), default=0) <= min(most, size)


@each_memory
def test_a_chunk_that_does_not_fit_is_halved_and_what_follows_is_no_larger(run_out: Callable[[], None]) -> None:
    tried: list[range] = []
    list(in_chunks(range(40), 32, limited(9, run_out, tried)))
    assert [(part.start, len(part)) for part in tried] == [(0, 32), (0, 16), (0, 8), (8, 8), (16, 8), (24, 8), (32, 8)]


def test_memory_that_runs_out_later_halves_from_there() -> None:
    tried: list[range] = []

    def work(part: range) -> int:
        tried.append(part)
        if part.stop > 20 and len(part) > 3:
            raise MemoryError
        return len(part)

    made = list(in_chunks(range(26), 10, work))
    assert [count for _, count in made] == [10, 10, 3, 3]
    assert [(part.start, len(part)) for part in tried] == [(0, 10), (10, 10), (20, 6), (20, 3), (23, 3)]


def test_a_chunk_is_given_before_the_next_is_begun() -> None:
    tried: list[range] = []
    chunks = in_chunks(range(30), 10, limited(10, exhausted, tried))
    next(chunks)
    assert tried == [range(10)]


@each_memory
def test_a_single_row_that_does_not_fit_raises_as_it_is(run_out: Callable[[], None]) -> None:
    tried: list[range] = []
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        list(in_chunks(range(20), 5, limited(0, run_out, tried)))
    assert is_out_of_memory(raised.value)
    assert [len(part) for part in tried] == [5, 2, 1]


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), ValueError("x"), KeyboardInterrupt(), OSError(12, "memory")]
)
def test_other_errors_pass_at_once(error: BaseException) -> None:
    tried: list[range] = []

    def work(part: range) -> None:
        tried.append(part)
        raise error

    with pytest.raises(type(error)) as raised:
        list(in_chunks(range(20), 8, work))
    assert raised.value is error
    assert tried == [range(8)]
    assert not is_out_of_memory(error)
