"""The peers that fill holes: ForestDiffusion with RePaint, and scikit-learn's IterativeImputer and KNNImputer.

All see numbers by the range of the training rows and categories as columns of zeros and ones, one for each value but
the first, which has what is left to one; the largest is taken. (A column for the first too would follow from the
others, and chained regressions never leave where they begin. ForestDiffusion's own coding is this one, but reads a
missing category as the first value.)
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from _tables_cache import Drawn
from _tables_data import Scaling, Split
from _tables_holes import DRAWS
from _tables_peers import Forest
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

REPAINT, CHAINED, NEIGHBOURS = "ForestDiffusion", "IterativeImputer", "KNNImputer"

# As for generation: what the processor's minutes allow; variance preserving wants more levels than flow does.
REPAINTS = {
    "iris": Forest(50, 30, 64),
    "penguins": Forest(25, 20, 64),
    "wine": Forest(25, 20, 64),
    "red wine": Forest(25, 5, 64),
    "cancer": Forest(25, 2, 64),
    "churn": Forest(25, 3, 64),
    "diamonds": Forest(25, 3, 64),
    "parkinsons": Forest(25, 3, 64),
    "adult": Forest(25, 1, 64),
}


def fill(method: str, part: Split, train: pd.DataFrame, tests: list[pd.DataFrame], settings: Forest) -> Drawn:
    """K rows for each with holes, by a peer by name: one set for each table with holes, after one fit.

    Args:
        method: the peer.
        part: whose rows they are.
        train: tidy rows to learn from, with None or NaN in holes.
        tests: tidy rows to fill, likewise.
        settings: of ForestDiffusion.

    Returns:
        the sets, and the seconds to fit and to fill one of them.
    """
    start, scaling = time.process_time(), Scaling.fit(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filler = _FILLERS[method](encode(scaling, train), part.number, settings)
        fitted, found = time.process_time() - start, []
        for test in tests:
            filled = decode(scaling, filler(encode(scaling, test)))
            again = test.loc[test.index.repeat(DRAWS)].reset_index(drop=True)
            found.append(again.where(again.notna(), filled))
    return Drawn(found, fitted + (time.process_time() - start - fitted) / len(tests))


Filler = Callable[[np.ndarray], np.ndarray]  # K consecutive rows for each with holes


def _chained(known: np.ndarray, seed: int, settings: Forest) -> Filler:
    imputer = IterativeImputer(sample_posterior=True, random_state=seed, min_value=0, max_value=1).fit(known)
    return lambda holed: _in_turn([imputer.transform(holed) for _ in range(DRAWS)])


def _neighbours(known: np.ndarray, seed: int, settings: Forest) -> Filler:
    imputer = KNNImputer().fit(known)
    return lambda holed: _in_turn([imputer.transform(holed)] * DRAWS)


def _in_turn(draws: list[np.ndarray]) -> np.ndarray:
    return np.stack(draws, axis=1).reshape(-1, draws[0].shape[1])


def _repaint(known: np.ndarray, seed: int, settings: Forest) -> Filler:
    from ForestDiffusion import ForestDiffusionModel  # of the peers' environment

    model = ForestDiffusionModel(
        known,
        n_t=settings.levels,
        duplicate_K=settings.copies,
        max_bin=settings.bins,
        diffusion_type="vp",
        n_batch=0,
        n_jobs=1,
        nthread=1,
        seed=seed,
    )
    # It wants rows to fill in its own units; all draws at once cost what one does.
    return lambda holed: model.impute(
        X=np.repeat(model.scaler.transform(holed), DRAWS, axis=0), repaint=True, r=10, j=0.1
    )


_FILLERS = {REPAINT: _repaint, CHAINED: _chained, NEIGHBOURS: _neighbours}


def encode(scaling: Scaling, tidy: pd.DataFrame) -> np.ndarray:
    """Tidy rows as numbers (n, d), NaN in holes: a category's columns are all missing or none."""
    numbers = (tidy[scaling.table.numbers].to_numpy(dtype=np.float64) - scaling.low) / scaling.width
    parts = [numbers]
    for c in scaling.table.categories:
        one_hot = scaling.one_hot(tidy, [c])[:, 1:]
        one_hot[tidy[c].isna().to_numpy()] = np.nan
        parts.append(one_hot)
    return np.concatenate(parts, axis=1)


def decode(scaling: Scaling, values: np.ndarray) -> pd.DataFrame:
    """Tidy rows of numbers (n, d): the value of the largest share of each category."""
    numbers, at = scaling.table.numbers, len(scaling.table.numbers)
    made = {c: values[:, k] * scaling.width[k] + scaling.low[k] for k, c in enumerate(numbers)}
    for c in scaling.table.categories:
        levels = scaling.levels[c]
        others = values[:, at : at + len(levels) - 1]
        shares = np.concatenate([1 - others.sum(1, keepdims=True), others], axis=1)
        made[c] = np.array(levels, dtype=object)[shares.argmax(1)]
        at += len(levels) - 1
    return pd.DataFrame(made)[scaling.table.columns]
