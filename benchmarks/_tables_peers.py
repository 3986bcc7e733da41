"""The peers that make rows: ForestDiffusion, with categories, whole numbers and labels told, and a Gaussian copula."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from _tables_cache import Cache, Drawn
from _tables_data import Split
from scipy.stats import norm, rankdata

from scorefield.randomness import Stream

FOREST, COPULA = "ForestDiffusion", "Gaussian copula"


@dataclass(frozen=True)
class Forest:
    """Settings of ForestDiffusion that cost time; all others are its defaults (flow, 100 trees of depth 7).

    Args:
        levels: n_t, of noise, 50 by default.
        copies: duplicate_K, of the rows with noise, 100 by default.
        bins: max_bin, of a column that trees look at, 256 by default.
    """

    levels: int = 50
    copies: int = 100
    bins: int = 256

    def __str__(self) -> str:
        return f"n_t={self.levels}, K={self.copies}, max_bin={self.bins}"


# What the processor's minutes allow on two shared cores: the cost of a level grows with rows, columns, copies and bins.
FORESTS = {
    "iris": Forest(20, 100, 256),
    "penguins": Forest(10, 30, 64),
    "wine": Forest(10, 30, 64),
    "red wine": Forest(10, 10, 64),
    "cancer": Forest(10, 5, 64),
    "churn": Forest(10, 10, 64),
    "diamonds": Forest(10, 5, 64),
    "parkinsons": Forest(10, 5, 64),
    "adult": Forest(10, 2, 64),
}


def rows_of(method: str, part: Split, sets: int, settings: Forest, cache: Cache) -> Drawn:
    """As many rows as there are to learn from, so many times, of a peer by name, kept."""
    count, key = len(part.train), _key(method, part, sets, settings)
    if method == FOREST:
        return cache.drawn(key, lambda: forest_diffusion(part, count, sets, settings))
    return cache.drawn(key, lambda: gaussian_copula(part, count, sets))


def is_kept(part: Split, sets: int, settings: Forest, cache: Cache) -> bool:
    """Whether the rows of ForestDiffusion are kept."""
    return cache.has(_key(FOREST, part, sets, settings))


def _key(method: str, part: Split, sets: int, settings: Forest) -> dict[str, object]:
    key = {"what": "rows", "method": method, "table": part.table.name, "split": part.number}
    told = str(settings) if method == FOREST else "ordered"
    return {**key, "settings": told, "rows": len(part.train), "sets": sets}


def forest_diffusion(part: Split, count: int, sets: int, settings: Forest) -> Drawn:
    """Rows of ForestDiffusion: a forest for each class where classes are predicted, as its authors advise."""
    from ForestDiffusion import ForestDiffusionModel  # of the peers' environment

    table, train = part.table, part.table.tidy(part.train)
    start = time.process_time()
    # Categories stand first: the package confounds those in columns 1 and 11.
    names = [c for c in table.columns if not (table.classes and c == table.target)]
    levels = {c: sorted(set(train[c])) for c in table.categories}
    values = np.stack([_codes(train[c], levels[c]) if c in levels else train[c].to_numpy() for c in names], axis=1)
    model = ForestDiffusionModel(
        values,
        label_y=_codes(train[table.target], levels[table.target]) if table.classes else None,
        n_t=settings.levels,
        duplicate_K=settings.copies,
        max_bin=settings.bins,
        n_batch=0,
        diffusion_type="flow",
        bin_indexes=[k for k, c in enumerate(names) if c in levels and len(levels[c]) <= 2],
        cat_indexes=[k for k, c in enumerate(names) if c in levels and len(levels[c]) > 2],
        int_indexes=[k for k, c in enumerate(names) if c in table.whole],
        n_jobs=1,
        nthread=1,
        seed=part.number,
    )
    fitted, found = time.process_time() - start, []
    for _ in range(sets):
        rows = model.generate(batch_size=count)
        made = {c: rows[:, k] for k, c in enumerate(names)}
        if table.classes:
            made[table.target] = rows[:, -1]
        for c, known in levels.items():
            made[c] = np.array(known, dtype=object)[np.round(made[c]).astype(int).clip(0, len(known) - 1)]
        found.append(pd.DataFrame(made)[table.columns])
        if len(found) == 1:
            fitted = time.process_time() - start
    return Drawn(found, fitted)


def _codes(column: pd.Series, levels: list[str]) -> np.ndarray:
    return column.map({level: k for k, level in enumerate(levels)}).to_numpy(dtype=np.float64)


def gaussian_copula(part: Split, count: int, sets: int) -> Drawn:
    """Rows of a Gaussian copula: normal scores of ranks, their correlation, and each column's own quantiles.

    A category is a latent normal cut at thresholds. Its values are ordered by the mean over their rows of the target
    where that is a number, and else of the first principal component of the numbers' ranks; rows of one value are
    spread over its piece.
    """
    start = time.process_time()
    train, columns = part.table.tidy(part.train), part.table.columns
    stream = Stream(part.number, "tables copula")
    spread = stream.uniform(len(train), (len(columns),)).double().numpy()
    guide = _first_component(train[part.table.numbers]) if part.table.classes else train[part.table.target].rank()
    ordered = {c: list(guide.groupby(train[c]).mean().sort_values().index) for c in part.table.categories}
    scores = []
    for k, c in enumerate(columns):
        coded = train[c].map({v: i for i, v in enumerate(ordered[c])}) if c in ordered else train[c]
        below = rankdata(coded.to_numpy(dtype=np.float64), method="min") - 1
        ties = rankdata(coded.to_numpy(dtype=np.float64), method="max") - below
        scores.append(norm.ppf(((below + spread[:, k] * ties) / len(train)).clip(1e-6, 1 - 1e-6)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        correlation = np.nan_to_num(np.corrcoef(np.stack(scores)))
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(values.clip(0))
    found, seconds = [], 0.0
    for number in range(sets):
        u = norm.cdf(stream.normal(count, (len(columns),), step=number + 1).double().numpy() @ root.T)
        made = {}
        for k, c in enumerate(columns):
            column = np.sort(train[c].map({v: i for i, v in enumerate(ordered[c])}) if c in ordered else train[c])
            drawn = column[(u[:, k] * len(column)).astype(int).clip(0, len(column) - 1)]
            made[c] = np.array(ordered[c], dtype=object)[drawn] if c in ordered else drawn
        found.append(pd.DataFrame(made))
        seconds = seconds or time.process_time() - start
    return Drawn(found, seconds)


def _first_component(numbers: pd.DataFrame) -> pd.Series:
    ranks = numbers.rank().to_numpy()
    ranks = (ranks - ranks.mean(0)) / np.maximum(ranks.std(0), 1e-12)
    return pd.Series(ranks @ np.linalg.svd(ranks, full_matrices=False)[2][0])
