"""Claim: a default fit of at most 60 s on toy:mixture gives true samples and the true score.

Prints, for each seed: seconds of the fit, the accuracy of two-sample classifiers between samples and fresh true draws
(½ is indistinguishable; at most 0.53 is claimed), and the error of the learned score against the closed form,

    √( Σ_levels σ² E‖s_θ − s*‖² / Σ_levels σ² E‖s*‖² ),   x ~ p_t,   32 levels evenly in log σ over the measured range

(at most 5 % is claimed). Beside them stand the same figures for fresh true draws, and for data blurred by 2 % of its
standard deviation, which shows what the classifiers can see.

    python benchmarks/mixture.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

import scorefield as sf
from scorefield.data.toy import toy_mixture

ROWS = 10_000


def two_sample_accuracy(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Cross-validated accuracy of classifiers that tell a from b, both (n, D)."""
    x = np.concatenate((a, b))
    x = (x - x.mean(0)) / x.std(0)
    y = np.repeat((0, 1), (len(a), len(b)))
    order = np.random.default_rng(seed).permutation(len(x))
    models = {
        "trees": HistGradientBoostingClassifier(max_iter=100, random_state=seed),
        "neighbours": KNeighborsClassifier(50),
        "network": MLPClassifier((64, 64), max_iter=200, early_stopping=True, n_iter_no_change=5, random_state=seed),
    }
    return {name: cross_val_score(model, x[order], y[order], cv=5).mean() for name, model in models.items()}


def score_error(bundle: sf.Bundle, levels: int = 32, rows: int = 4000) -> tuple[float, list[tuple[float, float]]]:
    """The error of the docstring, and (σ, relative error) at each level."""
    scalers = [column.scaler for column in bundle.features.codec.columns]
    shift, scale = (torch.tensor([getattr(s, name) for s in scalers]) for name in ("mean", "std"))
    denoiser = bundle.denoiser
    truth = toy_mixture().standardised(shift, scale, denoiser.schedule)
    low, high = bundle.noise_range.sigma_min, bundle.noise_range.sigma_max
    error, size, each = 0.0, 0.0, []
    for number, sigma in enumerate(np.geomspace(low, high, levels)):
        t = denoiser.schedule.time_of_sigma(float(sigma))
        x = truth.sample(rows, 1000 + number, t)
        exact, learned = truth.score(x, t), denoiser.score(x.float(), t).double()
        wrong = float((learned - exact).square().sum(1).mean()) * sigma**2
        right = float(exact.square().sum(1).mean()) * sigma**2
        error, size = error + wrong, size + right
        each.append((float(sigma), float(np.sqrt(wrong / right))))
    return float(np.sqrt(error / size)), each


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    fresh = toy_mixture().sample(ROWS, 101).numpy()
    again = toy_mixture().sample(ROWS, 102).numpy()
    blurred = again + 0.02 * again.std() * np.random.default_rng(0).standard_normal(again.shape)
    for name, other in (("true draws", again), ("true draws blurred by 2 %", blurred)):
        accuracies = two_sample_accuracy(fresh, other)
        print(f"{name}: classifiers {', '.join(f'{k} {v:.4f}' for k, v in accuracies.items())}")
    for seed in range(seeds):
        start = time.perf_counter()
        bundle = sf.fit("toy:mixture", seed=seed)
        seconds = time.perf_counter() - start
        samples = bundle.sample(ROWS, seed=seed).values
        accuracies = two_sample_accuracy(fresh, samples)
        error, each = score_error(bundle)
        steps = bundle.facts["training"]["steps"]
        print(
            f"seed {seed}: fit {seconds:.1f} s ({steps} steps), score error {error:.2%}, "
            f"classifiers {', '.join(f'{k} {v:.4f}' for k, v in accuracies.items())}"
        )
        print("   by σ: " + ", ".join(f"{sigma:.3g}: {value:.1%}" for sigma, value in each[::4]), flush=True)


if __name__ == "__main__":
    main()
