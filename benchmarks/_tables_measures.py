"""Measures of drawn rows after ForestDiffusion's benchmark: transport, coverage, usefulness, two samples, and copying.

Points are numbers by the range of the training rows and one-hot categories by halves; distances are city-block.

    w_train, w_test        Wasserstein-1 to the rows learnt from and to those held out, exact (POT); lower is better
    cover_train, …_test    share of real rows that have a drawn one nearer than their k-th real neighbour; k is the
                           smallest for which 95 % of rows have a neighbour that is no copy
    useful                 R² or macro-F1 on held-out rows of learners that saw drawn rows alone, the mean of a linear
                           one, AdaBoost, a random forest and boosted trees; 0 where a class is lacking
    told                   area under the ROC curve of telling drawn rows from those learnt from, three folds, the mean
                           of a linear learner, a random forest and boosted trees; ½ is best, and below counts as above
    closest                median distance of drawn rows to the nearest row learnt from, by that of held-out rows;
                           copies are far below 1
    copies                 share of drawn rows nearer to a row learnt from than to any of as many held-out ones:
                           ½ is best
    boosted                macro-F1 on held-out rows of CatBoost at its defaults that saw drawn rows alone (churn)
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from _tables_data import Scaling, Split
from scipy.spatial.distance import cdist
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scorefield.randomness import Stream

VERSION = 1
_LARGEST = 2000  # rows in a distance matrix
_LEARNT = 8000  # drawn rows that learners see at most
_COVERED = 0.95


def measure(part: Split, drawn: pd.DataFrame, boosted: bool = False) -> dict[str, float]:
    """All measures of one set of drawn rows.

    Args:
        part: the rows learnt from and those held out.
        drawn: tidy rows.
        boosted: whether CatBoost is trained too.
    """
    scaling = Scaling.fit(part)
    train, test = part.table.tidy(part.train), part.table.tidy(part.test)
    real, held, made = (_some(scaling(rows)) for rows in (train, test, drawn))
    found = {"w_train": wasserstein(real, made), "w_test": wasserstein(held, made)}
    found |= {"cover_train": coverage(real, made), "cover_test": coverage(held, made)}
    found["useful"] = usefulness(scaling, drawn, test)
    found["told"] = told_apart(*(_some(scaling(rows)) for rows in (train, drawn)))
    found |= copying(real, held, made)
    if boosted:
        found["boosted"] = catboost(part, drawn, test)
    return found


def _some(points: np.ndarray) -> np.ndarray:
    """No more rows than a distance matrix may have: a fixed random part."""
    if len(points) <= _LARGEST:
        return points
    return points[Stream(0, "tables measured rows").permutation(len(points))[:_LARGEST]]


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """The mean distance of the cheapest transport between two sets of points."""
    import ot  # of the peers' environment

    return float(ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cdist(x, y, "cityblock"), numItermax=2_000_000))


def coverage(real: np.ndarray, made: np.ndarray) -> float:
    """The share of real points that have a drawn one nearer than their k-th real neighbour (Naeem et al. 2020)."""
    near = np.sort(cdist(real, real, "cityblock"), axis=1)
    k = next((k for k in range(1, len(real)) if (near[:, k] > 0).mean() >= _COVERED), 1)
    return float((cdist(real, made, "cityblock").min(1) < near[:, k]).mean())


def usefulness(scaling: Scaling, drawn: pd.DataFrame, test: pd.DataFrame) -> float:
    """R² or macro-F1 on held-out rows, the mean over four learners that saw drawn rows alone."""
    x, y = scaling.features(drawn.head(_LEARNT))
    x_test, y_test = scaling.features(test)
    if not scaling.table.classes:
        learners = [LinearRegression(), AdaBoostRegressor(random_state=0)]
        learners += [RandomForestRegressor(random_state=0), HistGradientBoostingRegressor(random_state=0)]
        return float(np.mean([r2_score(y_test, learner.fit(x, y).predict(x_test)) for learner in learners]))
    if set(y_test) - set(y):
        return 0.0
    learners = [make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000))]
    learners += [AdaBoostClassifier(random_state=0), RandomForestClassifier(random_state=0)]
    learners += [HistGradientBoostingClassifier(random_state=0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guessed = [learner.fit(x, y.astype(str)).predict(x_test) for learner in learners]
    return float(np.mean([f1_score(y_test.astype(str), guess, average="macro") for guess in guessed]))


def told_apart(real: np.ndarray, made: np.ndarray) -> float:
    """How well learners tell drawn points from real ones, ½ + |AUC − ½|, the mean of three."""
    count = min(len(real), len(made))
    x, y = np.concatenate([real[:count], made[:count]]), np.repeat([0, 1], count)
    learners = [make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=500))]
    learners += [RandomForestClassifier(random_state=0), HistGradientBoostingClassifier(random_state=0)]
    areas = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for learner in learners:
            folds = StratifiedKFold(3, shuffle=True, random_state=0)
            chance = cross_val_predict(learner, x, y, cv=folds, method="predict_proba")[:, 1]
            areas.append(0.5 + abs(float(roc_auc_score(y, chance)) - 0.5))
    return float(np.mean(areas))


def copying(real: np.ndarray, held: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """How near drawn points stand to those learnt from, beside points that nothing learnt from."""
    to_real, ours = cdist(held, real, "cityblock").min(1), cdist(made, real, "cityblock").min(1)
    count = min(len(held), len(real))
    nearer = cdist(made, real[:count], "cityblock").min(1) - cdist(made, held[:count], "cityblock").min(1)
    share = (nearer < 0).mean() + (nearer == 0).mean() / 2
    return {"closest": float(np.median(ours) / max(np.median(to_real), 1e-12)), "copies": float(share)}


def catboost(part: Split, drawn: pd.DataFrame, test: pd.DataFrame) -> float:
    """Macro-F1 on held-out rows of CatBoost at its defaults, which has categories as they are."""
    from catboost import CatBoostClassifier  # of the peers' environment

    table = part.table
    names = [c for c in table.columns if c != table.target]
    categories = [c for c in table.categories if c != table.target]
    learner = CatBoostClassifier(random_seed=0, verbose=False, thread_count=1, allow_writing_files=False)
    learner.fit(drawn[names], drawn[table.target].astype(str), cat_features=categories)
    guess = np.ravel(learner.predict(test[names]))
    return float(f1_score(test[table.target].astype(str), guess.astype(str), average="macro"))
