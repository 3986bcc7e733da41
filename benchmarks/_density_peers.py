"""The competitors, each tuned on the training rows alone within a budget of seconds, as log-densities of new rows.

All choices are by held-out likelihood within the training rows. As ours is an ensemble, theirs may be ones too: the
mixture of Gaussians is refitted from ten starts and the spline flow for as many seeds as there is time for, and the
densities are averaged, log p = log mean exp log p_i, where that is better on held-out rows or costs nothing.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from scorefield.randomness import Stream

_BATCH, _EVERY, _PATIENCE, _SEARCH = 128, 20, 15, 0.6
LogDensity = Callable[[np.ndarray], np.ndarray]
FOLDS, STARTS = 5, 10
_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
_FLOOR = (1e-4, 3e-3, 3e-2, 1e-1, 3e-1)  # added to variances, of whitened data
_BANDWIDTHS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Fitted:
    """A fitted density.

    Args:
        log_density: of rows (n, d), (n,).
        choice: what was chosen.
        seconds: that fitting took.
    """

    log_density: LogDensity
    choice: str
    seconds: float


def gaussian_mixture(z: np.ndarray, budget: float, seed: int) -> Fitted:
    """GaussianMixture: covariance type, components and floor of variances by 5-fold cross-validation, ten starts."""
    start = time.perf_counter()
    scores: dict[tuple[str, int, float], float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Components first, by what they cost; then, for the best three, the floor.
        coarse = [(kind, k, _FLOOR[2]) for k in _COMPONENTS if 8 * k < len(z) for kind in ("full", "diag", "tied")]
        for key in coarse:
            if time.perf_counter() - start < budget / 2 or not scores:
                scores[key] = _mixture_score(z, key, seed)
        for kind, count, _ in sorted(scores, key=lambda key: -scores[key])[:3]:
            for floor in _FLOOR:
                if time.perf_counter() - start < 0.8 * budget and (kind, count, floor) not in scores:
                    scores[kind, count, floor] = _mixture_score(z, (kind, count, floor), seed)
        kind, count, floor = max(scores, key=lambda key: scores[key])
        parts = [_mixture(z, kind, count, floor, seed)]
        while len(parts) < STARTS and count > 1 and time.perf_counter() - start < budget:
            parts.append(_mixture(z, kind, count, floor, seed + len(parts)))
    choice = f"{count} {kind} of floor {floor:g}, {len(parts)} starts, best of {len(scores)}"
    return Fitted(_mean([part.score_samples for part in parts]), choice, time.perf_counter() - start)


def _mixture_score(z: np.ndarray, key: tuple[str, int, float], seed: int) -> float:
    """The held-out log-likelihood of a row by 5-fold cross-validation."""
    kind, count, floor = key
    folds = _folds(len(z), seed)
    return sum(
        _mixture(z[train], kind, count, floor, seed).score_samples(z[test]).sum() for train, test in folds
    ) / len(z)


def _mixture(z: np.ndarray, kind: str, count: int, floor: float, seed: int) -> GaussianMixture:
    return GaussianMixture(count, covariance_type=kind, reg_covar=floor, random_state=seed).fit(z)


def kernel_density(z: np.ndarray, budget: float, seed: int) -> Fitted:
    """KernelDensity with a Gaussian kernel: bandwidth by 5-fold cross-validation."""
    start = time.perf_counter()
    scores: dict[float, float] = {}
    for bandwidth in _BANDWIDTHS:
        if time.perf_counter() - start > budget and scores:
            break
        scores[bandwidth] = sum(
            KernelDensity(bandwidth=bandwidth).fit(z[train]).score(z[test]) for train, test in _folds(len(z), seed)
        )
    best = max(scores, key=lambda key: scores[key])
    density = KernelDensity(bandwidth=best).fit(z)
    return Fitted(density.score_samples, f"bandwidth {best:g}, best of {len(scores)}", time.perf_counter() - start)


@dataclass(frozen=True)
class _Size:
    """Of a spline flow, and how it is trained."""

    transforms: int
    width: int
    bins: int
    weight_decay: float
    learning_rate: float = 1e-3


_SIZES = (
    _Size(1, 64, 8, 1e-2),
    _Size(2, 64, 8, 1e-2),
    _Size(3, 64, 8, 1e-1),
    _Size(2, 128, 8, 1.0),
    _Size(1, 32, 4, 1e-1),
)


def spline_flow(z: np.ndarray, budget: float, seed: int) -> Fitted:
    """zuko's NSF: AdamW, early stopping on a tenth of the rows, the size by that, then more seeds of the best."""
    start = time.perf_counter()
    found: list[tuple[float, _Size, LogDensity]] = []
    for place, size in enumerate(_SIZES):
        left = _SEARCH * budget - (time.perf_counter() - start)
        if left <= 0 and found:
            break
        score, density = _train(z, size, left / (len(_SIZES) - place), seed)
        found.append((score, size, density))
    _, size, density = max(found, key=lambda entry: entry[0])
    parts = [density]
    while (left := budget - (time.perf_counter() - start)) > budget / 20:
        parts.append(_train(z, size, min(left, budget / 4), seed + len(parts))[1])
    choice = f"{size.transforms} transforms of {size.width}, {len(parts)} seeds, best of {len(found)}"
    return Fitted(_mean(parts), choice, time.perf_counter() - start)


def _train(z: np.ndarray, size: _Size, budget: float, seed: int) -> tuple[float, LogDensity]:
    """The held-out log-likelihood of a flow and its density, at its best step within the budget."""
    import zuko  # of the peers' environment

    start = time.perf_counter()
    order = Stream(seed, "density flow rows").permutation(len(z))
    held = max(2, len(z) // 10)
    rows = torch.from_numpy(z).float()
    test, train = rows[order[:held].copy()], rows[order[held:].copy()]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        flow = zuko.flows.NSF(
            z.shape[1], transforms=size.transforms, hidden_features=(size.width, size.width), bins=size.bins
        )
    optimiser = torch.optim.AdamW(flow.parameters(), lr=size.learning_rate, weight_decay=size.weight_decay)
    best, kept, since, step, passes = -np.inf, copy.deepcopy(flow.state_dict()), 0, 0, max(1, len(train) // _BATCH)
    while since < _PATIENCE and time.perf_counter() - start < budget:
        order = Stream(seed, "density flow order").permutation(len(train), step=step // passes)
        part = torch.from_numpy(order[step % passes :: passes].copy())
        loss = -flow().log_prob(train[part]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % _EVERY == 0:
            with torch.no_grad():
                score = float(flow().log_prob(test).mean())
            since = since + 1
            if score > best:
                best, kept, since = score, copy.deepcopy(flow.state_dict()), 0
    flow.load_state_dict(kept)

    def log_density(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return flow().log_prob(torch.from_numpy(x).float()).double().numpy()

    return best, log_density


def _mean(parts: list[LogDensity]) -> LogDensity:
    """The mixture of densities with equal shares."""
    return lambda x: logsumexp([part(x) for part in parts], axis=0) - np.log(len(parts))


def _folds(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    order = Stream(seed, "density folds").permutation(count)
    parts = np.array_split(order, FOLDS)
    return [(np.concatenate(parts[:k] + parts[k + 1 :]), part) for k, part in enumerate(parts)]
