"""Ours, as anybody would call it: `fit` on the table as it is, then `sample` or `impute`, all without options."""

from __future__ import annotations

import time

import pandas as pd
from _tables_cache import Drawn
from _tables_data import Split
from _tables_holes import DRAWS

import scorefield as sf

OURS = "scorefield"


def rows_of_ours(part: Split, sets: int) -> Drawn:
    """As many rows as were learnt from, so many times; what the table's identifiers are, the library says."""
    start, found, seconds = time.process_time(), [], 0.0
    run = sf.fit(part.train, seed=part.number)
    for number in range(sets):
        drawn = run.sample(len(part.train), seed=number)
        found.append(part.table.tidy(drawn.columns.to_pandas()))
        seconds = seconds or time.process_time() - start
    return Drawn(found, seconds)


def fill_ours(part: Split, train: pd.DataFrame, tests: list[pd.DataFrame]) -> Drawn:
    """K rows for each with holes: one set for each table with holes, after one fit.

    Args:
        part: whose rows they are.
        train: rows to learn from, as people have them.
        tests: rows to fill, likewise.
    """
    start = time.process_time()
    run = sf.fit(train, seed=part.number)
    fitted, found = time.process_time() - start, []
    for test in tests:
        filled = run.impute(test, draws=DRAWS, seed=part.number).columns.to_pandas()
        found.append(part.table.tidy(filled))
    return Drawn(found, fitted + (time.process_time() - start - fitted) / len(tests))
