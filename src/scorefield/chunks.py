"""Rows in chunks, which halve when memory runs out: as rows do not know of each other, the result is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def in_chunks(rows: range, size: int, work: Callable[[range], T]) -> Iterator[tuple[range, T]]:
    """Do work on rows, so many at a time.

    Args:
        rows: of the whole.
        size: how many to begin with. What did not fit into memory is tried again with half as many, and all that
            follows is no larger.
        work: on some of the rows; may be called anew for rows for which memory ran out.

    Yields:
        the rows of each chunk, and what was made of them.

    Raises:
        MemoryError, RuntimeError: where memory runs out for a single row.
    """
    start = rows.start
    while start < rows.stop:
        part = range(start, min(start + size, rows.stop))
        try:
            done = work(part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(part) == 1:
                raise
            size = len(part) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield part, done
        start = part.stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
