"""Scores of a user's rows: nats of the data as given, errors that cover, rows that know nothing of each other."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from scorefield import api, scoring
from scorefield.bundle import Bundle
from scorefield.codecs.choose import fit_codec
from scorefield.codecs.number import Number
from scorefield.codecs.scalers import Standardise
from scorefield.codecs.table import TableCodec
from scorefield.data import Array, Images, Table, read
from scorefield.drawing import Progress
from scorefield.errors import BundleError, DataError, Interrupted, OptionError, SamplingError
from scorefield.exact import GaussianMixture
from scorefield.features import Features
from scorefield.likelihood.log_prob import log_prob
from scorefield.model import NetworkDenoiser
from scorefield.moments import Moments, measure_moments
from scorefield.noise import VE, VP, Schedule
from scorefield.overrides import override
from scorefield.parametrization import X0
from scorefield.randomness import Stream
from scorefield.recipes import PRESETS
from scorefield.scoring import Scores, Scoring, rank, refuse_degenerate, score
from scorefield.storage import MANIFEST, write_files

SMALL = ["network.width=16", "training.steps=60", "training.batch=32", "training.precision=float32"]
SMALL_IMAGES = ["network.channels=[32]", "network.blocks=[1]", "network.attention=[false]", "training.steps=3"]


# -- models whose density is known ------------------------------------------------------------------------------------


class Exact(nn.Module):
    """In place of a network: E[x0 given x_t] of a mixture, or of one for each value of a condition."""

    def __init__(self, mixtures: list[GaussianMixture], sigma_data: float) -> None:
        super().__init__()
        self.mixtures, self.sigma_data = nn.ModuleList(mixtures), sigma_data
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, u: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        sigma = (4 * c_noise.double()).exp()
        x_t = u.double() * (self.sigma_data**2 + sigma.square()).sqrt().unsqueeze(-1)
        found = [mixture(x_t, mixture.schedule.time_of(-2 * sigma.log())).x0 for mixture in self.mixtures]
        if condition is None:
            return found[0].to(u)
        return (torch.stack(found, dim=1) * condition.double().unsqueeze(-1)).sum(1).to(u)


@dataclass(frozen=True)
class Known:
    """A model of data of known density.

    Args:
        features: fitted to some data.
        denoiser: exact.
        encoded: the mixtures in units of the code.
        scale: of each column of the code, in units of the data.
    """

    features: Features
    denoiser: NetworkDenoiser
    encoded: list[GaussianMixture]
    scale: Tensor

    def score(self, data: Any, how: Scoring | None = None, **options: Any) -> Scores:
        return score(self.denoiser, self.features, read(data), how or Scoring(), **options)


def evenly_scaled(codec: TableCodec, data: Table) -> TableCodec:
    """The same columns of numbers on even scales, under which a mixture stays one."""
    entries = []
    for column in codec.columns:
        assert isinstance(column.values, Number)
        values = data.columns[column.name].to_numpy().astype(float)
        even = replace(column.values.value, scaler=Standardise(float(values.mean()), float(values.std())))
        entries.append(replace(column, values=Number(even)))
    return replace(codec, entries=tuple(entries))


def known(data: Any, mixtures: list[GaussianMixture], condition: str = "", schedule: Schedule | None = None) -> Known:
    """The exact model of mixtures, in units of the data, behind the codec that these data get."""
    taken = read(data)
    numbers = [name for name in taken.columns.column_names if name != condition] if isinstance(taken, Table) else []
    features = Features.fit(taken, [condition] if condition else [], 0, dict.fromkeys(numbers, "number"))
    if isinstance(taken, Table) and isinstance(features.codec, TableCodec):
        features = replace(features, codec=evenly_scaled(features.codec, taken))
    # The codec's own shift and scale, seen from outside.
    columns = numbers or list(range(mixtures[0].means.shape[1]))
    steps = np.array([[0.0] * len(columns), [1.0] * len(columns)])
    units = pa.table({n: steps[:, i] for i, n in enumerate(columns)}) if features.order else steps
    low, high = features.codec.spread(read(units))[0]
    scale = 1 / (high - low)
    inner = VE(1e-4, 80.0)
    encoded = [mixture.standardised(-low * scale, scale, inner) for mixture in mixtures]
    sigma_data = math.sqrt(sum(mixture.sigma_data**2 for mixture in encoded) / len(encoded))
    denoiser = NetworkDenoiser(
        Exact(encoded, sigma_data), schedule or VE(1e-3, 80.0), X0, sigma_data, len(mixtures) if condition else 0
    )
    denoiser.moments = Moments.of(encoded[0].mean(), encoded[0].covariance())
    return Known(features, denoiser.requires_grad_(False), encoded, scale)


def mixture_of(means: list[list[float]], deviations: list[float]) -> GaussianMixture:
    """Equal weights, independent columns with these deviations."""
    covariance = torch.diag(torch.tensor(deviations, dtype=torch.float64).square())
    return GaussianMixture(torch.ones(len(means)), torch.tensor(means), covariance.expand(len(means), -1, -1))


def bins(mixture: GaussianMixture, values: Tensor, width: float) -> Tensor:
    """The probability of the bin around each value, (n,), of a mixture of one column."""
    probability = torch.zeros_like(values)
    for w, mean, variance in zip(mixture.weights, mixture.means[:, 0], mixture.eigenvalues[:, 0], strict=True):
        ends = [torch.special.ndtr((values + side * width / 2 - mean) / variance.sqrt()) for side in (1, -1)]
        probability = probability + w * (ends[0] - ends[1])
    return probability


TWO = mixture_of([[300.0, -0.02], [305.0, 0.03]], [2.0, 0.01])


@pytest.fixture(scope="module")
def real() -> Known:
    """Continuous columns of very different units."""
    return known(TWO.sample(400, 0).numpy(), [TWO])


# -- nats of the data as given ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_log_p_is_that_of_a_known_density_in_units_of_the_data(real: Known, tolerance: float) -> None:
    rows = TWO.sample(50, 1)
    scores = real.score(rows.numpy(), Scoring(tolerance))
    error = scores.log_prob - TWO.log_prob(rows)
    # What the lowest level, 10⁻³, does to a density is of second order.
    assert error.abs().max() < 1e-4
    assert scores.log_prob.mean() > 0  # far from what nats of the code would be: log(2 · 0.01) apart
    assert (scores.unusable, scores.log_prob.dtype) == ({}, torch.float64)
    assert 40 < scores.evaluations < 300


def test_probes_are_unbiased_and_their_error_is_known() -> None:
    # H₀: z is of mean 0 and mean square 1. 300 rows: |mean| < 4/√300, and the square's within 4 of its own standard
    # errors, 0.082; false alarms below 10⁻⁴. Caught: an error too small by 1/√2, as of four probes taken for eight.
    correlated = torch.tensor([[1.0, 0.7, 0.0], [0.7, 1.0, 0.6], [0.0, 0.6, 1.0]]).double()
    apart = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 0.5, 0.0]])
    mixture = GaussianMixture(torch.ones(2), apart, torch.stack([correlated, 0.5 * torch.eye(3)]))
    model = known(mixture.sample(400, 0).numpy(), [mixture])
    row = mixture.sample(1, 5)
    scores = model.score(row.expand(300, 3).numpy(), Scoring(probes=4, seed=3))
    z = (scores.log_prob - mixture.log_prob(row)) / scores.std_error
    assert abs(float(z.mean())) < 4 / math.sqrt(300)
    assert abs(float(z.square().mean()) - 1) < 0.33
    more = model.score(row.expand(50, 3).numpy(), Scoring(probes=16))
    assert 1.6 < float(scores.std_error.mean() / more.std_error.mean()) < 2.4
    assert not torch.equal(model.score(row.numpy(), Scoring(probes=4, seed=4)).log_prob, scores.log_prob[:1])


def test_law_the_same_rows_in_other_units_differ_by_the_units(made: dict[str, Bundle]) -> None:
    bundle, rows = made["array"], normals(80)
    a, b = np.array([0.01, 300.0]), np.array([5.0, -70.0])
    other = replace(bundle, features=Features(fit_codec(read(rows * a + b)), None, ()))
    same = replace(bundle, features=Features(fit_codec(read(rows)), None, ()))
    found = other.log_prob(rows * a + b).log_prob - same.log_prob(rows).log_prob
    torch.testing.assert_close(found, torch.full((80,), -math.log(3.0)).double(), rtol=0, atol=1e-6)


def test_a_conditional_models_log_p_is_given_the_conditions() -> None:
    of = {"a": mixture_of([[0.0]], [1.0]), "b": mixture_of([[4.0]], [0.2])}
    kinds = ["a", "b"] * 100
    values = np.array([float(of[kind].sample(range(i, i + 1), 0)) for i, kind in enumerate(kinds)])
    # So far up that it does not matter that the Gaussian at the top is that of all rows, whatever their condition.
    model = known(pa.table({"x": values, "kind": kinds}), list(of.values()), "kind", VE(1e-3, 1e4))
    x = np.linspace(3.2, 4.8, 12)
    for kind, mixture in of.items():
        found = model.score(pa.table({"kind": [kind] * 12, "x": x})).log_prob
        torch.testing.assert_close(found, mixture.log_prob(torch.from_numpy(x)[:, None]), rtol=1e-5, atol=2e-3)
    mixed = [["a", "b"][i % 2] for i in range(12)]
    found = model.score(pa.table({"kind": mixed, "x": x})).log_prob
    expected = [of[k].log_prob(torch.tensor([[v]])) for k, v in zip(mixed, x, strict=True)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("schedule", [VE(1e-3, 80.0), VP(t_min=1e-4)], ids=["ve", "vp"])
@pytest.mark.parametrize("noise", [0.05, 1.5])
def test_at_a_noise_level_it_is_the_density_of_noised_rows_in_units_of_the_data(
    schedule: Schedule, noise: float
) -> None:
    model = known(TWO.sample(400, 0).numpy(), [TWO], schedule=schedule)
    rows = TWO.sample(20, 1)
    found = model.score(rows.numpy(), Scoring(noise=noise))
    # Noise of this deviation in units of the code is independent in each column of the data.
    spread = torch.diag((noise * model.scale).square())
    noised = GaussianMixture(
        TWO.weights, TWO.means, (torch.diag(torch.tensor([4.0, 1e-4])).double() + spread).expand(2, 2, 2)
    )
    torch.testing.assert_close(found.log_prob, noised.log_prob(rows), rtol=0, atol=1e-3)


# -- rounded values ---------------------------------------------------------------------------------------------------

PEAKS = mixture_of([[0.0], [3.0], [4.0]], [1.0])


@pytest.mark.parametrize("width", [1.0, 0.1], ids=["integers", "decimals"])
def test_a_rounded_value_has_the_probability_of_its_bin(width: float) -> None:
    # H₀: (found − truth)/standard error is of mean square 1; 160 values, false alarm below 10⁻⁴ at 5 standard errors of
    # it (0.11). Caught: the spread of draws without 1/K, a bin of another width, offsets from −1 to 0.
    mixture = mixture_of([[width * mean] for mean in (0.0, 3.0, 4.0)], [width])
    # The scale is of any values: of those of the mixture itself, many rows would share one, which is then a spike.
    raw = np.tile(np.arange(-5, 10), 60) * width
    column = np.round(raw).astype(np.int64) if width == 1 else np.round(raw, 1)
    model = known(pa.table({"n": column}), [mixture])
    values = np.tile(np.arange(-3, 8), 15)[:160] * width
    given = np.round(values).astype(np.int64) if width == 1 else np.round(values, 1)
    scores = model.score(pa.table({"n": given}), Scoring(1e-2, draws=16))
    truth = (bins(mixture, torch.from_numpy(values), width) / width).log()
    z = (scores.log_prob - truth) / scores.std_error
    assert abs(float(z.square().mean()) - 1) < 0.55, float(z.square().mean())
    assert abs(float(z.mean())) < 0.5  # of a bound, a little below the truth
    assert (scores.std_error < 0.3).all()


@pytest.mark.parametrize("kind", ["table", "decimals"])
def test_great_law_probabilities_of_all_values_add_up_to_one(made: dict[str, Bundle], kind: str) -> None:
    # H₀: Σ p δ = 1 whatever the network; |Σ − 1| < 4 standard errors, and 0.002 that lies farther out.
    width = 1.0 if kind == "table" else 0.5
    n, m = (part.reshape(-1) for part in np.meshgrid(np.arange(-5, 11), np.arange(-5, 11)))
    cells = {"n": n, "m": m} if kind == "table" else {"n": n * width, "m": m * width}
    scores = made[kind].log_prob(pa.table(cells), Scoring(draws=30, seed=1))
    p = scores.log_prob.exp() * width**2
    error = float((p * scores.std_error).square().sum().sqrt())
    assert abs(float(p.sum()) - 1) < 4 * error + 0.002
    assert error < 0.02


def test_great_law_a_density_integrates_to_one(made: dict[str, Bundle]) -> None:
    side = np.linspace(-7, 7, 57)
    x, y = np.meshgrid(side, side)
    scores = made["array"].log_prob(np.stack([x.reshape(-1), y.reshape(-1)], axis=1), Scoring(tolerance=1e-2))
    assert abs(float(scores.log_prob.exp().sum()) * 0.25**2 - 1) < 2e-3


def test_offsets_fitted_to_each_row_are_tighter_than_uniform_ones() -> None:
    # Peaks much narrower than a bin and off its middle: a uniform offset hardly ever meets one.
    peaked = mixture_of([[0.2], [1.2], [2.2]], [0.03])
    column = np.arange(600) % 3
    model = known(pa.table({"n": column}), [peaked])
    given = pa.table({"n": np.arange(60) % 3})
    loose, tight = (model.score(given, Scoring(1e-2, draws=2, fitted=fitted)) for fitted in (False, True))
    truth = math.log(1 / 3)
    assert float(loose.log_prob.mean()) < truth - 5
    assert abs(float(tight.log_prob.mean()) - truth) < 0.1
    assert tight.std_error.median() < 0.2


def test_bits_per_dim_of_integers_are_those_of_their_bins_and_others_have_none(made: dict[str, Bundle]) -> None:
    scores = made["table"].log_prob(integers().slice(0, 5))
    torch.testing.assert_close(scores.bits_per_dim, -scores.log_prob / (2 * math.log(2)))
    torch.testing.assert_close(scores.bits_std_error, scores.std_error / (2 * math.log(2)))
    for kind, name in (("array", "'element 0', 'element 1'"), ("decimals", "'n', 'm'")):
        other = made[kind].log_prob(rows_of(kind).rows(np.arange(3)))
        with pytest.raises(OptionError, match=f"not integers are {name}"):
            _ = other.bits_per_dim


def test_images_have_bits_per_dim_in_levels_of_grey(made: dict[str, Bundle]) -> None:
    # All but untrained on pixels that are uniform: about 8 bits each, at least 7.5 and not 1.
    scores = made["images"].log_prob(pictures().rows(np.arange(2)), Scoring(0.1, draws=1, probes=2))
    assert (scores.elements, scores.log_prob.isfinite().all()) == (16, True)
    assert 7.5 < float(scores.bits_per_dim.mean()) < 12
    assert (scores.std_error > 0).all()


# -- rows know nothing of each other ----------------------------------------------------------------------------------


def normals(rows: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, 2))


def integers(rows: int = 120) -> pa.Table:
    random = np.random.default_rng(0)
    n = random.integers(0, 6, rows)
    return pa.table({"n": n, "m": np.clip(n + random.integers(-1, 2, rows), 0, 5)})


def mixed(rows: int = 120) -> pa.Table:
    """A condition, a count, a continuous and a constant column."""
    random = np.random.default_rng(0)
    return pa.table(
        {
            "kind": ["a", "b", "a"] * (rows // 3),
            "n": random.integers(0, 6, rows),
            "x": random.normal(size=rows),
            "unit": np.full(rows, 7),
        }
    )


def pictures() -> Images:
    return Images(np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8), "L")


COUNTS = {"n": "number", "m": "number"}  # few of them, each of which would be a name


def rows_of(kind: str) -> Any:
    halves = pa.table({name: integers()[name].to_numpy() * 0.5 for name in ("n", "m")})
    return read(
        {"array": normals(120), "table": integers(), "decimals": halves, "mixed": mixed()}.get(kind, pictures())
    )


@pytest.fixture(scope="module")
def made() -> dict[str, Bundle]:
    """Small bundles of each kind of data."""
    found = {}
    for kind in ("array", "table", "decimals", "mixed", "images"):
        settings = [*SMALL_IMAGES, *SMALL[2:]] if kind == "images" else SMALL
        recipe = override(PRESETS["edm"](), settings)
        condition = ["kind"] if kind == "mixed" else []
        types = COUNTS if kind in ("table", "decimals") else None
        found[kind] = api.fit(rows_of(kind), recipe, condition=condition, column_types=types, device="cpu")
    return found


HOW = {
    "exact": Scoring(1e-2, draws=2),
    "probes": Scoring(1e-2, draws=1, probes=2),
    "fitted": Scoring(0.1, draws=1, probes=2, fitted=True),
}


@pytest.mark.parametrize("how", HOW)
def test_law_row_i_is_the_same_alone_and_in_any_chunk(
    made: dict[str, Bundle], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Promise 26, of rows with conditions, bins, probes and fitted offsets.
    count = 5 if how == "fitted" else 8
    rows = mixed().slice(0, count)
    whole = made["mixed"].log_prob(rows, HOW[how])
    near = {"rtol": 1e-9, "atol": 1e-9}
    first = made["mixed"].log_prob(rows.slice(0, 1), HOW[how])
    torch.testing.assert_close(first.log_prob, whole.log_prob[:1], **near)
    for most in (1, 3) if how == "exact" else (3,):
        monkeypatch.setattr(scoring, "_MOST_ROWS", most)
        found = made["mixed"].log_prob(rows, HOW[how])
        torch.testing.assert_close(found.log_prob, whole.log_prob, **near)
        torch.testing.assert_close(found.std_error, whole.std_error, rtol=1e-4, atol=1e-9)
    monkeypatch.undo()
    # Others in their places, far away ones among them.
    others = mixed().slice(50, count).to_pandas()
    others["x"] *= 9.0
    others.iloc[3] = rows.to_pandas().iloc[3]
    found = made["mixed"].log_prob(others, HOW[how])
    torch.testing.assert_close(found.log_prob[3], whole.log_prob[3], **near)
    assert (found.log_prob - whole.log_prob).abs().max() > 1


def test_law_chunks_that_do_not_fit_into_memory_halve_and_give_the_same(
    made: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Promise 25.
    rows, sizes, told = normals(20), list[int](), list[float]()
    whole = made["array"].log_prob(rows)

    def scarce(model: Any, x: Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(x))
        if len(x) > 6:
            for _ in range(200):  # memory runs out on the way
                model(x, torch.tensor(model.schedule.t_max, dtype=torch.float64))
            raise torch.OutOfMemoryError("no memory left")
        return log_prob(model, x, *arguments, **options)

    monkeypatch.setattr(scoring, "log_prob", scarce)
    found = made["array"].log_prob(rows, on_progress=lambda progress: told.append(progress.share))
    torch.testing.assert_close(found.log_prob, whole.log_prob, rtol=0, atol=1e-9)
    assert sizes == [20, 10, 5, 5, 5, 5]
    assert told == sorted(told)
    monkeypatch.setattr(scoring, "log_prob", lambda *a, **k: (_ for _ in ()).throw(MemoryError("none at all")))
    with pytest.raises(MemoryError, match="none at all"):
        made["array"].log_prob(rows)


# -- rows without a density -------------------------------------------------------------------------------------------


def spoiled() -> tuple[pa.Table, dict[int, str]]:
    """Rows of which some have no density, and what is said of them by row."""
    table = mixed().slice(0, 12).to_pandas()
    table["n"] = table["n"].astype("float64")
    table.loc[0, "x"] = np.inf
    table.loc[2, "kind"] = "c"
    table.loc[3, "n"] = np.nan
    table.loc[5, "unit"] = 8
    table.loc[7, "x"] = 1e20
    table.loc[8, "kind"] = None
    columns = {name: pa.array(table[name], from_pandas=name != "x") for name in table.columns}
    reasons = {
        0: "column 'x' is inf, expected a finite number",
        2: "condition 'kind' was never 'c' in training",
        3: "column 'n' is missing",
        5: "column 'unit' is 8, which was always 7 in training",
        7: "times as far out as the data of training",
        8: "condition 'kind' is missing",
    }
    return pa.table(columns), reasons


def test_rows_without_a_density_are_named_with_the_reason(made: dict[str, Bundle]) -> None:
    table, reasons = spoiled()
    with pytest.raises(DataError, match=r"6 of 12 rows have no density, row 1: .*and 1 more: --skip-bad") as refused:
        made["mixed"].log_prob(table)
    for row in list(reasons)[:5]:
        assert f"row {row + 1}: " in str(refused.value)
        assert reasons[row] in str(refused.value)


@pytest.mark.parametrize("most", [5, 4096])
def test_law_bad_rows_do_not_change_the_others_numbers(
    made: dict[str, Bundle], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MOST_ROWS", most)
    table, reasons = spoiled()
    how = Scoring(1e-2, draws=1)
    found, clean = (made["mixed"].log_prob(t, how, skip_bad=True) for t in (table, mixed().slice(0, 12)))
    assert list(found.unusable) == list(reasons)
    for row, reason in reasons.items():
        assert reason in found.unusable[row]
    bad = torch.zeros(12, dtype=torch.bool)
    bad[list(reasons)] = True
    assert torch.equal(found.log_prob.isnan(), bad)
    assert torch.equal(found.std_error.isnan(), bad)
    torch.testing.assert_close(found.log_prob[~bad], clean.log_prob[~bad], rtol=0, atol=1e-9)


@pytest.mark.parametrize("most", [5, 4096])
def test_rows_at_which_the_model_is_not_finite_are_no_loss_for_the_others(
    real: Known, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MOST_ROWS", most)
    rows = TWO.sample(12, 1).numpy()
    rows[3, 1], rows[7] = 9.0, math.nan
    clean = real.score(rows, skip_bad=True)

    def hurt(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        far_out, low = inputs[0] > 50, inputs[1].unsqueeze(-1) < math.log(0.01) / 4
        return torch.where(far_out & low, math.nan, output)

    handle = real.denoiser.network.register_forward_hook(hurt)
    try:
        found = real.score(rows, skip_bad=True)
        with pytest.raises(SamplingError, match=r"1 of 11 rows have no density, row 4: .*not finite.*--skip-bad"):
            real.score(np.delete(rows, 7, axis=0))
    finally:
        handle.remove()
    assert list(found.unusable) == [3, 7]
    assert "the field is not finite" in found.unusable[3]
    others = [row for row in range(12) if row not in (3, 7)]
    torch.testing.assert_close(found.log_prob[others], clean.log_prob[others], rtol=0, atol=1e-9)
    assert found.log_prob.isnan().nonzero().flatten().tolist() == [3, 7]


def test_a_data_set_without_any_good_row_is_all_nan(made: dict[str, Bundle]) -> None:
    rows = np.full((3, 2), np.nan)
    with pytest.raises(DataError, match="3 of 3 rows have no density"):
        made["array"].log_prob(rows)
    scores = made["array"].log_prob(rows, skip_bad=True)
    assert bool(scores.log_prob.isnan().all())
    assert bool(scores.std_error.isnan().all())
    assert list(scores.unusable) == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (pa.table({"n": [1], "m": [2]}).slice(0, 0), DataError, "no rows, expected at least one"),
        (pa.table({"n": [1, 2]}), DataError, r"columns \['m'\] are missing"),
        (pa.table({"n": ["1", "x"], "m": [1, 2]}), DataError, "'n' holds string"),
        (np.zeros((3, 2)), DataError, "trained on a table, got array"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_data_of_another_form_are_refused_whatever_is_skipped(
    made: dict[str, Bundle], data: Any, error: type[Exception], message: str, skip_bad: bool
) -> None:
    with pytest.raises(error, match=message):
        made["table"].log_prob(data, skip_bad=skip_bad)


def test_columns_that_are_functions_of_each_other_are_refused_by_name(made: dict[str, Bundle]) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=200)
    table = pa.table({"n": np.round(x).astype(int), "x": x, "z": random.normal(size=200), "y": 3 - 2 * x})
    features = Features.fit(read(table), [], 0)
    moments = measure_moments(features.codec.encode(read(table)))
    again = Features.from_json(json.loads(json.dumps(features.to_json())), None)
    with pytest.raises(DataError, match="columns 'x', 'y' are linear functions of each other") as refused:
        refuse_degenerate(again, moments)
    assert "'z'" not in str(refused.value)
    # Twice the same column of whole numbers is none: their bins have room.
    twice = read(pa.table({"n": np.round(x).astype(int), "m": np.round(x).astype(int), "x": x}))
    features = Features.fit(twice, [], 0)
    refuse_degenerate(features, measure_moments(features.codec.encode(twice)))
    # A bundle asks before any work, and one of old without moments cannot tell.
    bundle = copy.copy(made["array"])
    flat = copy.copy(bundle.denoiser)
    flat.moments = Moments.of(torch.zeros(2), torch.ones(2, 2))
    with pytest.raises(DataError, match="'element 0', 'element 1' are linear functions"):
        replace(bundle, denoiser=flat).log_prob(normals(2))
    flat.moments = None
    assert bool(replace(bundle, denoiser=flat).log_prob(normals(2)).log_prob.isfinite().all())


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "got 0"),
        ({"tolerance": math.nan}, "got nan"),
        ({"tolerance": math.inf}, "got inf"),
        ({"probes": 1}, "at least 2, got 1"),
        ({"probes": -1}, "got -1"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"noise": 0.0}, "above 0, got 0"),
        ({"noise": math.nan}, "got nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Scoring(**options)


@pytest.mark.parametrize("noise", [1e-9, 1e9])
def test_a_level_out_of_the_models_range_is_refused_with_what_there_is(
    made: dict[str, Bundle], noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetworkDenoiser, "_input_scales", None)
    low, high = made["array"].recipe.noise.sigma_min, made["array"].recipe.noise.sigma_max
    with pytest.raises(OptionError, match=f"levels, {low:.3g} and {high:.3g}, got {noise:g}".replace("+", r"\+")):
        made["array"].log_prob(normals(2), Scoring(noise=noise))


def test_the_cost_that_is_reckoned_with_is_about_what_is_taken(made: dict[str, Bundle]) -> None:
    for kind in ("array", "table"):
        gridded = made[kind].features.codec.numbers.gridded
        found = made[kind].log_prob(rows_of(kind).rows(np.arange(10)))
        nodes = 40 * (1 if kind == "array" else 4)  # with a backward pass for each of the two numbers
        assert 0.4 < (found.evaluations + 2 * nodes) / Scoring().cost(gridded) < 2


def test_defaults_follow_the_length_of_a_row() -> None:
    short, long = Scoring().probes_of(64), Scoring().probes_of(65)
    assert (short, Scoring(probes=0).probes_of(65), Scoring(probes=3).probes_of(2)) == (None, None, 3)
    assert long is not None
    assert long >= 2
    assert (Scoring().draws_of(2, False), Scoring(draws=9).draws_of(2, False)) == (1, 1)
    assert Scoring(draws=9).draws_of(2, True) == 9


# -- ranks and ratios -------------------------------------------------------------------------------------------------


def test_great_law_ranks_among_rows_alike_are_uniform() -> None:
    # Conformal: with n + 1 rows alike each rank is equally likely. H₀ exact: χ² with 10 cells, 10 000 values, below
    # 33.7, passed by chance once in 10 000. Caught: (r + ½)/n, which leaves (0, 1) or empties the last cell.
    every = Stream(0, "ranks").normal(10_000, (10,), dtype=torch.float64)
    shares = torch.stack([rank(row[:1], row[1:])[0] for row in every])
    counts = (shares * 10).floor().long().bincount(minlength=10)
    assert counts.shape == (10,)
    assert float((counts - 1000.0).square().sum() / 1000) < 33.7
    assert ((shares > 0) & (shares < 1)).all()


def test_ranks_grow_ties_are_halved_and_nan_has_none() -> None:
    reference = torch.tensor([3.0, 1.0, 2.0, 2.0, math.nan])
    found = rank(torch.tensor([-math.inf, 1.0, 2.0, 2.5, 9.0, math.nan]), reference)
    torch.testing.assert_close(found[:5], torch.tensor([0.5, 1.0, 2.5, 3.5, 4.5]).double() / 5)
    assert found[5].isnan()
    swapped = rank(-torch.tensor([1.0, 2.0, 2.5]), -reference)
    torch.testing.assert_close(swapped, 1 - rank(torch.tensor([1.0, 2.0, 2.5]), reference))
    for nothing in (torch.zeros(0), torch.tensor([math.nan])):
        with pytest.raises(OptionError, match="no row to rank against"):
            rank(torch.zeros(2), nothing)


def test_a_ratio_of_densities_has_the_errors_of_both(real: Known) -> None:
    rows = TWO.sample(8, 1)
    mine, theirs = real.score(rows[:4].numpy()), real.score(rows[4:].numpy(), Scoring(probes=2))
    ratio, error = mine.over(theirs)
    expected = TWO.log_prob(rows[:4]) - TWO.log_prob(rows[4:])
    assert ((ratio - expected).abs() < 5 * error + 1e-4).all()
    assert (error >= theirs.std_error).all()
    assert (error >= mine.std_error).all()
    with pytest.raises(OptionError, match="row by row, got 4 and 8"):
        mine.over(real.score(rows.numpy()))


# -- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "mixed"])
def test_progress_grows_and_reaches_one_only_at_the_end(
    made: dict[str, Bundle], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MOST_ROWS", 5)
    said: list[Progress] = []
    made[kind].log_prob(rows_of(kind).rows(np.arange(12)), on_progress=said.append)
    told = [progress.share for progress in said]
    assert told == sorted(told)
    assert [share for share in told if share >= 1] == [1.0]
    assert {progress.rows for progress in said} == {12}
    assert said[-1].evaluations >= 12 * 40
    assert len(told) > 3 * 20
    assert max(b - a for a, b in pairwise(told)) < 0.45  # of three chunks, none comes as a surprise


def test_what_progress_raises_stops_the_work_and_leaves_the_model_as_it_was(made: dict[str, Bundle]) -> None:
    calls = 0

    def stop(progress: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        made["mixed"].log_prob(mixed().slice(0, 6), on_progress=stop)
    assert calls == 30
    denoiser = made["mixed"].denoiser
    assert not denoiser._forward_hooks
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert bool(made["mixed"].log_prob(mixed().slice(0, 2)).log_prob.isfinite().all())
    assert calls == 30


# -- what a bundle keeps for it ---------------------------------------------------------------------------------------


def without(folder: Path, drop: Callable[[str], bool], more: dict[str, Tensor] | None = None) -> None:
    """The bundle in a folder with some of its tensors left out or replaced, and a manifest that holds."""
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST}
    tensors = safetensors.torch.load(files["model.safetensors"])
    kept = {name: value for name, value in tensors.items() if not drop(name)} | (more or {})
    write_files(folder, files | {"model.safetensors": safetensors.torch.save(kept)})


@pytest.mark.parametrize("kind", ["array", "mixed", "images"])
def test_law_a_bundle_keeps_moments_and_reference_to_the_bit(
    made: dict[str, Bundle], kind: str, tmp_path: Path
) -> None:
    before = replace(made[kind], reference=torch.linspace(-3, 2, 22).double()[::2])
    before.save(tmp_path / "run")
    after = Bundle.load(tmp_path / "run")
    assert before.reference is not None
    assert after.reference is not None
    assert torch.equal(after.reference, before.reference)
    mine, theirs = before.denoiser.moments, after.denoiser.moments
    assert mine is not None
    assert theirs is not None
    for name, value in mine.to_tensors("").items():
        assert torch.equal(theirs.to_tensors("")[name], value)
    assert theirs.mean.shape == before.features.codec.shape
    some = rows_of(kind).rows(np.arange(2))
    how = Scoring(0.1, draws=1)
    near = 1e-3 if kind == "images" else 0.0  # where weights lie in memory shows in the rounding of convolutions
    torch.testing.assert_close(
        after.log_prob(some, how).log_prob, before.log_prob(some, how).log_prob, rtol=0, atol=near
    )
    made[kind].save(tmp_path / "run")
    assert Bundle.load(tmp_path / "run").reference is None  # none of another model is left behind


def test_moments_are_where_samples_begin(made: dict[str, Bundle]) -> None:
    moved = copy.copy(made["array"].denoiser)
    assert moved.moments is not None
    moved.moments = replace(moved.moments, mean=moved.moments.mean + 40)
    first = made["array"].sample(3).values
    assert np.abs(replace(made["array"], denoiser=moved).sample(3).values - first).max() > 1e-3


def test_a_network_that_is_scaled_by_moments_is_refused_without_them(made: dict[str, Bundle], tmp_path: Path) -> None:
    made["mixed"].save(tmp_path / "run")
    without(tmp_path / "run", lambda name: name.startswith("moments."))
    with pytest.raises(BundleError, match="run: the mean and covariance that its network is scaled by are missing"):
        Bundle.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("drop", "more"),
    [
        ("moments.axes", {}),
        ("moments.mean", {"moments.mean": torch.zeros(5).double()}),
        ("moments.axes", {"moments.axes": torch.zeros(2, 1).double()}),
        ("moments.axes", {"moments.axes": torch.zeros(7).double()}),
        ("moments.variances", {"moments.variances": torch.zeros(3).double()}),
        ("moments.rest", {"moments.rest": torch.zeros(2).double()}),
        ("moments.surprise", {"moments.surprise": torch.zeros(2).double()}),
    ],
)
def test_moments_that_are_not_of_such_rows_are_refused(
    made: dict[str, Bundle], drop: str, more: dict[str, Tensor], tmp_path: Path
) -> None:
    made["array"].save(tmp_path / "run")
    without(tmp_path / "run", lambda name: name == drop, more)
    with pytest.raises(BundleError, match=r"run: .*moments|mean and covariance"):
        Bundle.load(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "bundle.json").read_text())["format"] == 3


def test_arrays_of_one_number_and_rows_in_any_form_are_scored() -> None:
    one = mixture_of([[2.0], [3.0]], [0.5])
    values = one.sample(300, 0)
    model = known(values.numpy(), [one])
    expected = one.log_prob(values[:5])
    for form in (values[:5].numpy(), values[:5], Array(values[:5].numpy())):
        torch.testing.assert_close(model.score(form).log_prob, expected, rtol=0, atol=1e-4)
    assert isinstance(read(integers()), Table)
