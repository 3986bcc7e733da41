"""Held-out rows to rank others by: as many as training pays for, the same after an interruption, never at its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scorefield as sf
from scorefield import finish
from scorefield.bundle import Bundle
from scorefield.data import read
from scorefield.errors import Interrupted, SamplingError
from scorefield.overrides import override
from scorefield.progress import Quiet
from scorefield.scoring import Scoring
from scorefield.training.loop import Trainer

SMALL = [
    *("network.width=16", "training.steps=30", "training.batch=16", "training.precision=float32"),
    *("checkpoint.every=7", "training.patience=99"),
]


class Said(Quiet):
    """Remembers what was said, and asks to stop after some steps."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.steps, self.said = after, 0, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps >= self.after


def array(rows: int = 60) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)


def fit(data: Any, **options: Any) -> Bundle:
    return sf.fit(data, override(sf.recipes.edm(), SMALL), device="cpu", **options)


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranking may cost as much as training did, so that thirty steps are enough for six rows."""
    monkeypatch.setattr(finish, "_RANKING_SHARE", 1.0)
    monkeypatch.setattr(finish, "_FEWEST_RANKED", 3)


def test_the_held_out_rows_own_log_p_is_kept_and_its_mean_said(paid: None, tmp_path: Path) -> None:
    told = Said()
    bundle = fit(array(), out=tmp_path / "run", report=told)
    assert bundle.reference is not None
    every = bundle.log_prob(array()).log_prob
    places = (bundle.reference.unsqueeze(1) - every).abs().min(1)
    assert float(places.values.max()) < 1e-9
    # Six of sixty are held out; which, the loop alone knows.
    assert len(set(places.indices.tolist())) == 6
    said = [text for text in told.said if text.startswith("held-out rows")]
    assert said == [f"held-out rows: log p {float(bundle.reference.mean()):.4g} nats on average over 6"]
    kept = sf.load(tmp_path / "run", device="cpu").reference
    assert kept is not None
    assert torch.equal(kept, bundle.reference)


def test_those_scored_are_those_that_were_not_trained_on(paid: None, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[np.ndarray] = []
    trained: list[np.ndarray] = []
    true_log_prob, true_update = Bundle.log_prob, Trainer._update

    def listen(self: Bundle, data: Any, **options: Any) -> Any:
        scored.append(data.values)
        return true_log_prob(self, data, **options)

    def update(self: Trainer) -> Any:
        trained.append(self.rows.numbers)
        return true_update(self)

    monkeypatch.setattr(Bundle, "log_prob", listen)
    monkeypatch.setattr(Trainer, "_update", update)
    fit(array())
    assert len(scored) == 1
    assert len(scored[0]) == 6
    rest = np.concatenate([array()[trained[0]], scored[0]])
    np.testing.assert_array_equal(np.sort(rest, axis=0), np.sort(array(), axis=0))


@pytest.mark.parametrize("steps", [10, 1000, 100_000])
def test_ranking_costs_at_most_a_twentieth_of_training(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, trained = fit(array()), 3.0 * steps * 256
    asked: list[int] = []

    def count(self: Bundle, data: Any, **options: Any) -> Any:
        asked.append(len(data))
        raise SamplingError("only counted")

    monkeypatch.setattr(Bundle, "log_prob", count)
    finish.with_reference(bundle, read(array(5000)), np.arange(3000), trained, Said())
    cost = Scoring().cost(bundle.features.codec.numbers.gridded)
    assert all(100 <= rows <= 1000 and rows * cost <= trained / 20 for rows in asked)
    assert len(asked) == (0 if steps == 10 else 1)


def test_short_training_and_few_held_out_rows_leave_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Said()
    bundle = fit(array(), out=tmp_path / "run", report=told)
    assert bundle.reference is None
    assert sf.load(tmp_path / "run", device="cpu").reference is None
    assert not any("held-out rows" in text for text in told.said)
    monkeypatch.setattr(finish, "_RANKING_SHARE", 1e9)
    assert fit(array()).reference is None  # however much is paid, six are too few


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (SamplingError("rows cannot go on"), True),
        (MemoryError("none left"), True),
        (torch.OutOfMemoryError("none left"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("a fault of ours"), False),
    ],
)
def test_training_is_not_lost_for_what_cannot_be_scored(
    paid: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kept: bool
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Bundle, "log_prob", fail)
    told = Said()
    if not kept:  # what nobody foresaw is not passed over in silence
        with pytest.raises(RuntimeError, match="a fault of ours"):
            fit(array(), report=told)
        return
    bundle = fit(array(), out=tmp_path / "run", report=told)
    assert bundle.reference is None
    assert told.said[-1] == f"no held-out rows are kept to rank others by: {error}"
    assert len(sf.load(tmp_path / "run", device="cpu").sample(3)) == 3


def test_columns_of_infinite_density_train_draw_and_have_no_ranks(paid: None) -> None:
    told = Said()
    x = array(60).astype(np.float64)
    bundle = fit(np.concatenate([x, x[:, :1] * 2 + 1], axis=1), report=told)
    assert bundle.reference is None
    assert "'element 0', 'element 2' are linear functions of each other" in told.said[-1]
    assert len(bundle.sample(3)) == 3


@pytest.mark.parametrize("killed_at", ["training", "scoring", "saving"])
def test_law_a_run_gone_on_with_keeps_the_same_bits(
    paid: None, killed_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(array(), out=tmp_path / "whole")
    run = tmp_path / "run"

    def die(*arguments: object, **options: object) -> None:
        raise Interrupted("killed")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):  # noqa: PT012
        if killed_at != "training":
            patch.setattr(
                "scorefield.api.with_reference" if killed_at == "scoring" else "scorefield.api.Bundle.save", die
            )
        fit(array(), out=run, report=Said(20) if killed_at == "training" else None)
    found = fit(array(), out=run)
    assert whole.reference is not None
    assert found.reference is not None
    assert torch.equal(found.reference, whole.reference)
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
