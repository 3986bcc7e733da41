"""The trainer: going on is bit-identical, rates rise and fall, the best weights are kept, nothing learns from NaN."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from scorefield.errors import TrainingError
from scorefield.exact import Gaussian
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM
from scorefield.objectives.presets import edm
from scorefield.parametrization import edm_f
from scorefield.training.held_out import BANDS, HeldOut, HeldOutLoss
from scorefield.training.loop import EVALUATIONS, Trainer
from scorefield.training.rows import Rows
from scorefield.training.settings import TrainingSettings

SETTINGS = TrainingSettings(batch=16, steps=30, learning_rate=1e-2, precision="float32")
MEAN, COVARIANCE = torch.tensor([0.5, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.8]])
SCHEDULE = EDM(0.05, 10.0)


def gaussian() -> Gaussian:
    return Gaussian(MEAN, COVARIANCE, SCHEDULE)


def network(seed: int = 0) -> NetworkDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NetworkDenoiser(MLP((2,), 16, 2), SCHEDULE, edm_f(1.0), 1.0)


def rows(numbers: range, x: Tensor | None = None) -> Rows:
    data = gaussian().sample(300, seed=0).float() if x is None else x
    return Rows(np.arange(numbers.start, numbers.stop), lambda index, _: (data[torch.from_numpy(index)], None))


def trainer(
    settings: TrainingSettings = SETTINGS, *, model: NetworkDenoiser | None = None, seed: int = 0, held: int = 60
) -> Trainer:
    return Trainer(model or network(), edm(1.0), rows(range(held, 300)), rows(range(held)), settings, seed)


def on_disk(made: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as a checkpoint would keep it."""
    tensors, values = made.state()
    content = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    return safetensors.torch.load(content), json.loads(json.dumps(values))


def same_state(first: Trainer, second: Trainer) -> None:
    (mine, my_values), (theirs, their_values) = first.state(), second.state()
    assert mine.keys() == theirs.keys()
    assert {name.split(".")[0] for name in mine} >= {"model", "average", "best", "optimiser"}
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    del my_values["seconds"], their_values["seconds"]
    assert my_values == their_values


# -- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 10, 29])
@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_equivalence_cut_off_and_gone_on_with_is_uninterrupted(optimiser: str, cut: int) -> None:
    settings = SETTINGS.model_copy(update={"optimiser": optimiser})
    whole = trainer(settings)
    steps = list(whole)
    first = trainer(settings)
    before = list(islice(first, cut))
    assert first.number == cut
    second = trainer(settings, model=network(seed=9))  # its first weights must not matter
    second.load_state(*on_disk(first))
    after = list(second)
    same_state(whole, second)
    for mine, theirs in zip(steps, [*before, *after], strict=True):
        assert mine.number == theirs.number
        assert torch.equal(mine.loss, theirs.loss)
        assert torch.equal(mine.gradient_norm, theirs.gradient_norm)
        assert (mine.learning_rate, mine.share, mine.held_out) == (
            theirs.learning_rate,
            theirs.share,
            theirs.held_out,
        )
    for mine, theirs in zip(whole.best().parameters(), second.best().parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_stopping_to_iterate_and_iterating_again_goes_on() -> None:
    whole, parts = trainer(), trainer()
    list(whole)
    for count in (3, 4):
        list(islice(parts, count))
    list(parts)
    same_state(whole, parts)
    assert list(parts) == []


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    states = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            made = trainer(seed=seed)
            list(made)
        states.append(made.state()[0]["model.network.out.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# -- the course of training -------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_falls_to_nearly_nothing() -> None:
    settings = SETTINGS.model_copy(update={"steps": 200, "warmup": 0.1, "decay": 0.5})
    rates = [step.learning_rate for step in trainer(settings, held=0)]
    assert len(rates) == 200
    assert 0 < rates[0] < 0.1 * max(rates)
    assert max(rates) == pytest.approx(1e-2)
    rise, fall = np.diff(rates[:20]), np.diff(rates[102:])
    assert (rise > 0).all()
    assert np.ptp(rates[25:98]) == 0
    assert (fall < 0).all()
    assert 0 < rates[-1] < 0.02 * max(rates)


def test_no_warm_up_and_no_decay_is_one_rate() -> None:
    settings = SETTINGS.model_copy(update={"warmup": 0.0, "decay": 0.0})
    assert {step.learning_rate for step in trainer(settings)} == {1e-2}


def test_budget_ends_training_by_seconds() -> None:
    settings = TrainingSettings(batch=16, budget=0.2, learning_rate=1e-3, precision="float32")
    made = trainer(settings)
    steps = list(made)
    assert steps[-1].share == 1
    assert steps[-2].share < 1
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert made.seconds >= 0.2


def test_training_learns() -> None:
    """Held-out loss of the trained model: above the exact one's and far below the untrained one's."""
    made = trainer(SETTINGS.model_copy(update={"steps": 300}))
    held_out = HeldOut(rows(range(60)), edm(1.0), seed=0)
    before, _ = held_out(made.average.model)
    list(made)
    after, each = held_out(made.best())
    exact, best_each = held_out(gaussian())
    assert made.held_out_loss() == after
    assert after.mean - exact.mean < 0.3 * (before.mean - exact.mean)
    # What is left to learn is no less than nothing, in standard errors of the paired difference.
    rest = each - best_each
    assert float(rest.mean()) > -3 * float(rest.std()) / len(rest) ** 0.5


def test_clipping_bounds_the_gradient_that_the_optimiser_sees() -> None:
    norms, reported = [], []
    for clip in (1e9, 1e-3):
        made = trainer(SETTINGS.model_copy(update={"clip": clip, "optimiser": "adam"}))
        reported.append(float(next(iter(made)).gradient_norm))
        norms.append(sum(float(p.grad.square().sum()) for p in made.model.parameters() if p.grad is not None) ** 0.5)
    # What is reported is the norm before clipping.
    assert reported[0] == reported[1] == pytest.approx(norms[0], rel=1e-5)
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_precision_decides_the_type_of_products() -> None:
    class Recording(NetworkDenoiser):
        def output(self, x_t: Tensor, level: Any) -> Tensor:
            seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
            return super().output(x_t, level)

    results = {}
    for precision, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen: list[torch.dtype] = []
        base = network()
        model = Recording(base.network, base.schedule, base.parametrization, base.sigma_data)
        made = trainer(SETTINGS.model_copy(update={"precision": precision, "steps": 5}), model=model, held=0)
        losses = [float(step.loss) for step in made]
        assert set(seen) == {expected}
        assert all(p.dtype == torch.float32 for p in model.parameters())
        results[precision] = losses
    assert results["float32"] != results["bfloat16"]
    np.testing.assert_allclose(results["float32"], results["bfloat16"], rtol=0.05)


# -- the held-out loss ------------------------------------------------------------------------------------------------


def test_the_held_out_loss_is_measured_evenly_and_the_least_is_known() -> None:
    made = trainer(SETTINGS.model_copy(update={"steps": 80}))
    measured = [(step.number, step.held_out.mean) for step in made if step.held_out is not None]
    assert [number for number, _ in measured] == list(range(2, 81, 80 // EVALUATIONS))
    assert made.best_loss is not None
    assert made.best_loss.mean == min(mean for _, mean in measured)


def rising(monkeypatch: pytest.MonkeyPatch, rise: float) -> None:
    """The fifth evaluation is the best; those after it are worse by `rise`, on every row."""
    count = 0

    def measured(self: HeldOut, model: Any) -> tuple[HeldOutLoss, Tensor]:
        nonlocal count
        count += 1
        mean = 1 + 0.1 * max(0, 5 - count) + (rise if count > 5 else 0)
        # Rows differ by more than the evaluations do, and each evaluation shakes them by a hundredth.
        shaken = torch.randn(60, generator=torch.Generator().manual_seed(count)) / 100
        each = mean + torch.linspace(-1, 1, 60) + shaken - shaken.mean()
        return HeldOutLoss(float(each.mean()), (mean,) * BANDS, tuple(range(BANDS + 1)), 0.01), each

    monkeypatch.setattr(HeldOut, "__call__", measured)


def test_a_held_out_loss_that_has_risen_stops_training_and_gives_the_best_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rising(monkeypatch, 0.02)  # far below the rows' spread, ten times the error of the paired difference
    made = trainer(SETTINGS.model_copy(update={"steps": 400, "patience": 3}))
    evaluations, at_best = 0, {}
    for step in made:
        evaluations += step.held_out is not None
        if evaluations == 5 and not at_best:
            at_best = {n: v.clone() for n, v in made.average.model.state_dict().items()}
    assert made.stopped_early
    assert evaluations == 5 + 3
    for name, value in made.best().state_dict().items():
        assert torch.equal(value, at_best[name])
    found = made.held_out_loss()
    assert found is not None
    assert found.mean == pytest.approx(1)
    # A trainer that goes on from here knows that it is done, and gives the same.
    later = trainer(made.settings)
    later.load_state(*on_disk(made))
    assert list(later) == []
    for name, value in later.best().state_dict().items():
        assert torch.equal(value, at_best[name])


def test_a_plateau_stops_nothing_and_its_last_weights_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rising(monkeypatch, 0.0005)  # a third of the paired difference's error
    made = trainer(SETTINGS.model_copy(update={"steps": 400, "patience": 3}))
    assert len(list(made)) == 400
    for mine, average in zip(made.best().parameters(), made.average.model.parameters(), strict=True):
        assert torch.equal(mine, average)


def test_without_held_out_rows_the_last_average_is_the_best() -> None:
    made = trainer(held=0)
    assert all(step.held_out is None for step in made)
    assert made.best_loss is None
    for mine, average in zip(made.best().parameters(), made.average.model.parameters(), strict=True):
        assert torch.equal(mine, average)


def test_oracle_the_exact_model_has_a_lower_held_out_loss_in_every_band() -> None:
    data = gaussian().sample(500, seed=3).float()
    held_out = HeldOut(Rows(np.arange(500), lambda index, _: (data[torch.from_numpy(index)], None)), edm(1.0), seed=0)
    exact, untrained = held_out(gaussian())[0], held_out(network())[0]
    # An untrained network predicts F = 0, which is near the truth only where noise is all there is.
    assert exact.mean + 5 * exact.std_error < untrained.mean
    assert all(a < b for a, b in zip(exact.bands, untrained.bands, strict=True))
    assert len(exact.edges) == BANDS + 1
    assert list(exact.edges) == sorted(exact.edges)
    assert SCHEDULE.t_min <= exact.edges[0] < exact.edges[-1] <= SCHEDULE.t_max
    # Bands hold equal shares of the law of noise, so that their mean is the mean.
    assert np.mean(exact.bands) == pytest.approx(exact.mean, rel=1e-3)
    assert held_out(gaussian())[0] == exact
    assert HeldOutLoss.from_json(json.loads(json.dumps(exact.to_json()))) == exact


def test_statistics_the_standard_error_is_that_of_other_rows() -> None:
    """Spread of 40 held-out losses on fresh rows over the error they claim: 1 ± 4/√80, one false alarm in 10⁴.

    The planted bug, counting the repeats of a row as rows of their own, makes the claim too small by more.
    """
    means, claims, naive = [], [], []
    for seed in range(40):
        data = Gaussian(MEAN, COVARIANCE, SCHEDULE).sample(40, seed=100 + seed).float()
        held_out = HeldOut(
            Rows(np.arange(40), lambda index, _, x=data: (x[torch.from_numpy(index)], None)), edm(1.0), seed
        )
        loss, each = held_out(network())
        means.append(loss.mean)
        claims.append(loss.std_error)
        naive.append(float(each.std()) / (len(each) * held_out.repeats) ** 0.5)
    spread = float(np.std(means, ddof=1))
    assert abs(spread / np.mean(claims) - 1) < 4 / 80**0.5
    assert spread / np.mean(naive) > 1 + 4 / 80**0.5


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_row_and_time_and_changes_nothing(value: float) -> None:
    x = gaussian().sample(300, seed=0).float()
    bad = 217
    x[bad] = value
    made = Trainer(network(), edm(1.0), rows(range(100, 300), x), rows(range(0)), SETTINGS, seed=0)
    weights: dict[str, Tensor] = {}
    number = 0
    with pytest.raises(TrainingError) as refused:  # noqa: PT012
        for step in made:
            weights = {n: v.clone() for n, v in made.state()[0].items()}
            number = step.number
    message = str(refused.value)
    assert f"step {number + 1}:" in message
    assert f"({bad}, " in message
    t = float(message.split(f"({bad}, ")[1].split(")", maxsplit=1)[0])
    assert SCHEDULE.t_min <= t <= SCHEDULE.t_max
    assert made.number == number
    for name, value_now in made.state()[0].items():
        assert torch.equal(value_now, weights[name]), name
        assert value_now.isfinite().all()


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer()
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: torch.tensor(torch.inf))
    before = made.state()[0]["model.network.out.weight"].clone()
    with pytest.raises(TrainingError, match=r"gradient norm inf.*the gradient alone"):
        next(iter(made))
    assert torch.equal(made.state()[0]["model.network.out.weight"], before)


def test_weights_that_are_not_finite_become_no_state_and_no_result() -> None:
    made = trainer()
    next(iter(made))
    assert made.state()
    made.best()
    with torch.no_grad():
        next(made.average.model.parameters()).view(-1)[0] = torch.nan
    for refused in (made.state, made.best):
        with pytest.raises(TrainingError, match=r"step 1: 1 weights are not finite, network\..* the first"):
            refused()
    made = trainer()
    with torch.no_grad():
        next(made.model.parameters()).view(-1)[0] = torch.inf
    with pytest.raises(TrainingError, match="step 0: 1 weights are not finite"):
        made.state()


@pytest.mark.parametrize("missing", ["batch", "learning_rate", "steps"])
def test_incomplete_settings_are_refused(missing: str) -> None:
    with pytest.raises(TrainingError, match="needs batch, learning_rate and steps or budget"):
        trainer(SETTINGS.model_copy(update={missing: None}))


def test_a_state_of_another_network_is_refused() -> None:
    made = trainer()
    tensors, values = on_disk(made)
    other = replace(rows(range(300)))
    wide = NetworkDenoiser(MLP((2,), 24, 2), SCHEDULE, edm_f(1.0), 1.0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Trainer(wide, edm(1.0), other, rows(range(0)), SETTINGS, 0).load_state(tensors, values)
