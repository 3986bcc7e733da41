"""What the README claims of a default fit, held by whole runs: slow, so `make slow` runs them."""

import sys
from pathlib import Path

import numpy as np
import pytest

import scorefield as sf
from scorefield.data.toy import toy_mixture

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

# Cross-validated accuracy on 20 000 rows has a standard error of 0.0035; under the null hypothesis of equal
# distributions 0.53 is 8 of them above one half.
LARGEST_ACCURACY = 0.53
LARGEST_ERROR = 0.05


@pytest.mark.slow
def test_a_default_fit_of_the_mixture_has_the_true_score_and_true_samples() -> None:
    from mixture import ROWS, score_error, two_sample_accuracy

    bundle = sf.fit("toy:mixture", seed=0)
    assert score_error(bundle)[0] < LARGEST_ERROR
    fresh = toy_mixture().sample(ROWS, 101).numpy()
    drawn = bundle.sample(ROWS, seed=0)
    accuracy = two_sample_accuracy(fresh, drawn.values)  # type: ignore[union-attr]
    assert max(accuracy.values()) < LARGEST_ACCURACY, accuracy
    # The classifiers see what a wrong model would do: components of equal weight, or a spread 10 % too wide.
    wrong = toy_mixture().sample(ROWS, 103).numpy()
    spread = wrong.mean(0) + 1.1 * (wrong - wrong.mean(0))
    assert max(two_sample_accuracy(fresh, spread).values()) > LARGEST_ACCURACY


@pytest.mark.slow
def test_digits_keep_their_label_and_are_no_copies() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    from scorefield.data.read import read

    digits = read("sklearn:digits")
    bundle = sf.fit(digits, condition=["label"], seed=0)
    drawn = bundle.sample(500, seed=0)
    known, new = (d.pixels.reshape(len(d), -1).astype(float) for d in (digits, drawn))  # type: ignore[union-attr]
    judged = KNeighborsClassifier(3).fit(known, digits.labels).predict(new)  # type: ignore[union-attr]
    # A model that ignored its labels would be right in one of ten.
    assert np.mean(judged == drawn.labels) > 0.9  # type: ignore[union-attr]
    distance = np.sqrt(((new[:, None] - known[None]) ** 2).sum(-1)).min(1)
    between = np.sqrt(((known[:300, None] - known[None, 300:]) ** 2).sum(-1)).min(1)
    assert np.median(distance) > 0.5 * np.median(between)
