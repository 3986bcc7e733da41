"""Shrinkage: the factor that held-out rows ask for against its closed form, what it leaves alone, how it is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scorefield as sf
from scorefield import finish
from scorefield.bundle import Bundle
from scorefield.data import read
from scorefield.inspection import describe_run
from scorefield.noise import EDM, VP, Flow, Schedule
from scorefield.overrides import override
from scorefield.progress import Quiet
from scorefield.shrinkage import Shrinkage, to_gaussian

LONG = 1e9  # of training, that pays for whatever is to be measured


class Said(Quiet):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)


class Told(nn.Module):
    """F that is known: so many times what is right for numbers that are normal about one of two points."""

    def __init__(self, bundle: Bundle, times: float) -> None:
        super().__init__()
        self.times, self.moments = times, bundle.denoiser.moments
        high, low = bundle.features.encode(read(np.array([[POINT], [-POINT]])))[0].double().flatten()
        self.centre, self.point = (high + low) / 2, (high - low) / 2
        self.blur = self.point * BLUR / POINT
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, u: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        assert self.moments is not None
        mean, variance, axis = self.moments.mean, self.moments.variances, self.moments.axes
        sigma = torch.exp(4 * c_noise.double()).reshape(-1, 1)
        c = variance + sigma**2
        h = u.double() * c.sqrt()
        x, narrow = h * axis + mean - self.centre, self.blur**2 + sigma**2
        mixed = self.blur**2 * x + sigma**2 * self.point * torch.tanh(self.point * x / narrow)
        right = self.centre + mixed / narrow
        beyond = (right - mean) * axis - h * variance / c
        return (self.times * beyond / (sigma * (variance / c).sqrt())).to(u.dtype)


POINT, BLUR = 1.3, 0.2


def points(rows: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed)
    return (np.where(drawn.random(rows) < 0.5, -POINT, POINT) + BLUR * drawn.normal(size=rows)).reshape(-1, 1)


def fit(data: Any, *changes: str, **options: Any) -> Bundle:
    small = ["network.width=8", "network.depth=1", "training.steps=20", "training.batch=16", *changes]
    return sf.fit(data, override(sf.recipes.auto(), small), device="cpu", **options)


def knowing(times: float) -> Bundle:
    bundle = fit(points(400, 0))
    assert bundle.denoiser.whitened
    bundle.denoiser.network = Told(bundle, times)
    return bundle


def shrunk(bundle: Bundle, told: Said | None = None, trained: float = LONG) -> Bundle:
    held_out = np.arange(300)
    return finish.with_shrinkage(bundle, read(points(300, 1)), held_out, trained, 0, told or Said())


@pytest.mark.parametrize("times", [2.0, 4.0])
def test_oracle_of_what_is_said_so_many_times_too_loudly_the_rest_is_kept(times: float) -> None:
    # E⟨F, x0 − g⟩ = E⟨F, E[x0 given x] − g⟩ = E‖F‖²/times at every level, whatever the law of x0 is.
    told = Said()
    found = shrunk(knowing(times), told).denoiser.shrinkage
    assert found is not None
    # Where F is next to nothing, at much noise, k has no meaning; below, 300 rows give it to 10 %.
    between = [k for k, place in zip(found.kept, found.log_noise, strict=True) if -2 < place < 0.5]
    assert len(between) >= 3
    assert between == pytest.approx([1 / times] * len(between), rel=0.1)
    assert len(told.said) == 1
    assert "held-out rows are likelier so by" in told.said[0]


@pytest.mark.parametrize("times", [1.0, 0.5])
def test_what_is_right_or_too_quiet_is_kept_as_it_is(times: float) -> None:
    told = Said()
    bundle = knowing(times)
    assert shrunk(bundle, told) is bundle
    assert not told.said


def test_the_nats_that_are_said_are_those_that_rows_gain() -> None:
    told = Said()
    loud = knowing(2.0)
    softer = shrunk(loud, told)
    said = float(told.said[0].split("likelier so by ")[1].split(" ")[0])
    fresh = points(300, 2)
    gained = softer.log_prob(fresh).log_prob - loud.log_prob(fresh).log_prob
    # By I-MMSE of a flow that is exact; a loud one's density is another than its bound says. The order is right.
    assert float(gained.mean()) > said / 3 > 0


def test_few_rows_a_short_training_and_other_networks_are_left_alone() -> None:
    bundle, data = knowing(4.0), read(points(300, 1))
    for held_out, trained in ((np.arange(9), LONG), (np.arange(300), 1e5)):
        assert finish.with_shrinkage(bundle, data, held_out, trained, 0, Said()) is bundle
    plain = fit(points(300, 0), "network.whitened=false")
    assert finish.with_shrinkage(plain, data, np.arange(300), LONG, 0, Said()) is plain


@pytest.mark.parametrize("schedule", [EDM(0.01, 80.0), VP(), Flow()], ids=["edm", "vp", "flow"])
def test_k_lies_on_lines_between_levels_and_beyond_is_that_of_the_ends(schedule: Schedule) -> None:
    shrinkage = Shrinkage((-1.0, 0.0, 2.0), (0.2, 0.6, 1.0))
    places = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    level = schedule.at(schedule.time_of(-2 * places))
    expected = torch.tensor([0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shrinkage.at(level), expected)
    assert float(shrinkage.at(schedule.at(places.new_tensor(schedule.t_max)))) == 1.0
    assert Shrinkage.from_json(shrinkage.to_json()).kept == shrinkage.kept


@pytest.mark.parametrize("t", [torch.tensor(0.5), torch.linspace(0.2, 0.8, 5)], ids=["one time", "a time each"])
def test_a_shrunk_model_is_compiled_in_one_graph(t: Tensor) -> None:
    model = fit(points(400, 0)).denoiser
    model.shrinkage = Shrinkage((-2.0, 0.0, 2.0), (0.3, 0.6, 0.9))
    x = torch.from_numpy(points(5, 3)).float()
    with torch.no_grad():
        found = torch.compile(model, backend="eager", fullgraph=True)(x, t.double()).x0
        torch.testing.assert_close(found, model(x, t.double()).x0)


class Broken(Told):
    """Is no number where noise is low."""

    def forward(self, u: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.where(c_noise.reshape(-1, 1) < -0.5, math.nan, super().forward(u, c_noise))


def test_what_is_no_number_and_what_does_not_fit_into_memory_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, told = fit(points(400, 0)), Said()
    bundle.denoiser.network = Broken(bundle, 4.0)
    assert shrunk(bundle, told) is bundle
    assert not told.said
    bundle = knowing(4.0)
    monkeypatch.setattr(Told, "forward", lambda *inputs: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    assert shrunk(bundle, told) is bundle
    assert len(told.said) == 1
    assert "memory ran out" in told.said[0]


def test_a_table_that_is_none_is_refused() -> None:
    for places, kept in (((0.0,), (1.0,)), ((0.0, 0.0), (1.0, 1.0)), ((0.0, 1.0), (1.0,)), ((0.0, 1.0), (0.5, 1.1))):
        with pytest.raises(ValueError, match="shares in"):
            Shrinkage(places, kept)
    with pytest.raises(ValueError, match="shares in"):
        Shrinkage((0.0, 1.0), (0.5, math.nan))


def test_it_is_kept_with_the_model_and_in_every_copy(tmp_path: Path) -> None:
    bundle = fit(points(400, 0))
    bundle.denoiser.shrinkage = Shrinkage((-2.0, 2.0), (0.3, 0.9))
    bundle.save(tmp_path / "kept")
    again = sf.load(tmp_path / "kept", device="cpu")
    assert again.denoiser.shrinkage is not None
    assert again.denoiser.shrinkage.kept == (0.3, 0.9)
    assert "shrinkage" not in again.facts
    said = "of what the network says beyond a Gaussian 30% to 90% are kept, by level"
    assert said in (tmp_path / "kept" / "README.md").read_text()
    assert any(said in line for line in describe_run(tmp_path / "kept"))
    x = torch.from_numpy(points(5, 3)).float()
    t = torch.full((5,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(again.denoiser(x, t).x0, bundle.denoiser(x, t).x0)
        # What tables a level was given before is not what it is given now.
        bundle.denoiser.shrinkage = to_gaussian(-1.0, 1.0)
        gaussian = bundle.denoiser(x, t).x0
        assert not torch.allclose(again.denoiser(x, t).x0, gaussian)
        again.denoiser.network = nn.Module()  # of which nothing is asked
        again.denoiser.network.forward = lambda u, c_noise, condition: torch.zeros_like(u)  # type: ignore[method-assign]
        torch.testing.assert_close(again.denoiser(x, t).x0, gaussian)


def test_fit_shrinks_what_it_learned_by_heart_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 120 normal rows of six numbers a network that learns fast learns what is not there.
    monkeypatch.setattr(finish, "_SHRINKAGE_SHARE", 10.0)
    told, drawn = Said(), np.random.default_rng(0)
    mixing = np.linalg.qr(drawn.normal(size=(6, 6)))[0] * np.array([2.0, 1, 1, 0.5, 0.5, 0.2])
    data = (drawn.normal(size=(400, 6)) @ mixing).astype(np.float32)
    changes = ["network.width=128", "network.depth=2", "training.steps=600", "training.learning_rate=0.01"]
    recipe = override(sf.recipes.auto(), [*changes, "training.patience=99", "training.precision=float32"])
    bundle = sf.fit(data[:120], recipe, device="cpu", report=told)
    assert sum("of what the network says beyond a Gaussian" in text for text in told.said) == 1
    kept = bundle.log_prob(data[120:]).log_prob.mean()
    bundle.denoiser.shrinkage = None
    assert kept > bundle.log_prob(data[120:]).log_prob.mean() + 0.05
