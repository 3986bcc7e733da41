"""Holes made at random in real rows, and measures of what fills them: error, distribution and calibration.

Each measured cell is a hole with one chance, whatever it and the others hold (MCAR). Of every row there are K draws.
Numbers count in standard deviations of their column in the training rows.

    mae        |median of the draws − truth|, the mean over numbers; a point estimate is all draws alike
    crps       mean |x − truth| − ½ mean |x − x′| over draws x ≠ x′, the mean over numbers (Gneiting & Raftery 2007)
    wrong      share of categories where the most frequent draw is not the truth
    brier      P(x ≠ truth) − ½ P(x ≠ x′) over draws, the mean over categories: crps where distance is being unequal
    energy     as crps for all holes of a row at once, by city-block distance in points of the measures of generation
    w_filled   Wasserstein-1 of filled rows, one draw of each, to the true ones, mean of three draws
    within     share of numbers from the least of K = 19 draws to the greatest, where 18 of 20 belong: 0.9 is best
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _tables_data import NONE, Scaling, Split
from _tables_measures import wasserstein

from scorefield.randomness import Stream

DRAWS = 19
_TRANSPORTED = 3  # draws of which the transport is measured


def punch(part: Split, rows: pd.DataFrame, share: float, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows with holes, as people have them, and where the holes are.

    Args:
        part: whose table it is.
        rows: complete rows as people have them.
        share: of cells that become holes.
        name: of the draw of places, for the rows held out and those learnt from differ.

    Returns:
        the rows, and (n, d) for the columns of the table, False where the cell was missing already.
    """
    columns = part.table.columns
    holes = Stream(part.number, f"tables holes {name} {share}").uniform(len(rows), (len(columns),)).numpy() < share
    holes &= part.table.tidy(rows).ne(NONE).to_numpy()
    made = rows.copy()
    for k, column in enumerate(columns):
        if pd.api.types.is_integer_dtype(made[column]):
            made[column] = made[column].astype("Int64")  # which knows missing cells
        made.loc[holes[:, k], column] = None
    return made, holes


def hide(part: Split, rows: pd.DataFrame, holes: np.ndarray) -> pd.DataFrame:
    """Tidy rows with None and NaN in holes, where a cell that was missing before stays a value of its own."""
    tidy = part.table.tidy(rows)
    return tidy.mask(pd.DataFrame(holes, columns=tidy.columns), other=None)


def judge_filled(part: Split, holes: np.ndarray, filled: pd.DataFrame) -> dict[str, float]:
    """The measures of K draws for each held-out row.

    Args:
        part: whose held-out rows had the holes.
        holes: (n, d), where.
        filled: tidy rows, K consecutive ones for each.
    """
    table, scaling = part.table, Scaling.fit(part)
    truth, count = table.tidy(part.test), len(filled) // len(part.test)
    # Cells that were seen are as they were, whatever a method made of those that the table itself lacks.
    again, places = truth.loc[truth.index.repeat(count)].reset_index(drop=True), np.repeat(holes, count, axis=0)
    filled = filled[table.columns].where(pd.DataFrame(places, columns=table.columns), again)
    deviation = table.tidy(part.train)[table.numbers].std(ddof=0).to_numpy()
    split = len(table.categories)
    x = filled[table.numbers].to_numpy().reshape(len(truth), count, -1) / np.where(deviation > 0, deviation, 1.0)
    y = truth[table.numbers].to_numpy() / np.where(deviation > 0, deviation, 1.0)
    seen = holes[:, split:]
    found = {
        "mae": float(np.abs(np.median(x, axis=1) - y)[seen].mean()),
        "crps": float((np.abs(x - y[:, None]).mean(1) - _apart(x) / 2)[seen].mean()),
        "within": float(((x.min(1) <= y + 1e-9) & (y - 1e-9 <= x.max(1)))[seen].mean()),
    }
    if split and holes[:, :split].any():
        found |= _of_categories(scaling, truth, filled, holes[:, :split], count)
    points, real = scaling(filled).reshape(len(truth), count, -1), scaling(truth)
    rows = holes.any(1)
    energy = np.abs(points - real[:, None]).sum(-1).mean(1) - _pairs(points) / 2
    found["energy"] = float(energy[rows].mean())
    found["w_filled"] = float(np.mean([wasserstein(points[:, k], real) for k in range(min(_TRANSPORTED, count))]))
    return found


def _of_categories(
    scaling: Scaling, truth: pd.DataFrame, filled: pd.DataFrame, holes: np.ndarray, count: int
) -> dict[str, float]:
    wrong, brier = [], []
    for k, column in enumerate(scaling.table.categories):
        shares = scaling.one_hot(filled, [column]).reshape(len(truth), count, -1).mean(1)[holes[:, k]]
        real = scaling.one_hot(truth, [column])[holes[:, k]]
        wrong.append(shares.argmax(1) != real.argmax(1))
        # Of K (K − 1) ordered pairs of draws, K² Σ share² − K are equal ones.
        equal = (count**2 * (shares**2).sum(1) - count) / max(count * (count - 1), 1)
        brier.append(1 - (shares * real).sum(1) - (1 - equal) / 2)
    return {"wrong": float(np.concatenate(wrong).mean()), "brier": float(np.concatenate(brier).mean())}


def _apart(x: np.ndarray) -> np.ndarray:
    """Mean |x − x′| over pairs of different draws, (n, d) of (n, K, d), from the order of draws."""
    count = x.shape[1]
    if count < 2:
        return np.zeros((len(x), x.shape[2]))
    weight = 2 * np.arange(count) - count + 1
    return 2 * (np.sort(x, axis=1) * weight[None, :, None]).sum(1) / (count * (count - 1))


def _pairs(points: np.ndarray) -> np.ndarray:
    """Mean city-block distance over pairs of different draws, (n,) of (n, K, d): that of columns, added up."""
    return _apart(points).sum(-1)
