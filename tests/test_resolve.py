"""From facts to a complete recipe: nothing left open, what was given stays, twice is once, each choice said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from scorefield.build import build_objective, build_sampler, build_schedule
from scorefield.errors import OptionError
from scorefield.noise_range import NoiseRange, measure_noise_range
from scorefield.overrides import override
from scorefield.randomness import Stream
from scorefield.recipes import PRESETS, Recipe, plain
from scorefield.resolve import DataFacts, resolve
from scorefield.samplers.adaptive import AdaptiveFlow, AdaptiveSDE
from scorefield.samplers.choice import TOLERANCE

SHAPES = {"table": (5,), "point": (2,), "digits": (1, 8, 8), "images": (3, 32, 32), "large": (3, 64, 64)}


def facts(shape: tuple[int, ...], rows: int = 300) -> DataFacts:
    x = Stream(0, "test").normal(40, shape)
    return DataFacts(shape, rows, measure_noise_range(x), torch.device("cpu"))


def open_fields(recipe: Recipe) -> set[str]:
    """Paths whose value is still None."""
    groups = {name: v for name, v in plain(recipe).items() if isinstance(v, dict)}
    return {f"{group}.{name}" for group, fields in groups.items() for name, v in fields.items() if v is None}


@pytest.fixture(autouse=True)
def _same_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    # Timed on the machine otherwise.
    monkeypatch.setattr("scorefield.resolve.pick_precision", lambda device: ("float32", "for the test"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_completed_on_every_kind_of_data(name: str, shape: tuple[int, ...]) -> None:
    complete, said = resolve(PRESETS[name](), facts(shape))
    # A step size of None is NCSNv2's rule, and 0.2 NCSN's own.
    unused = {"checkpoint.every"} | ({"sampler.size"} if name != "ncsn" else set())
    if complete.sampler.name != "langevin":
        unused |= {"sampler.moves"}
    # One of the two says when a sampler is done: how often it asks the model, or how near its rows come.
    chooses = complete.sampler.name == "auto"
    unused |= {"sampler.steps"} if chooses else {"sampler.tolerance"}
    assert complete.sampler.tolerance == (TOLERANCE if chooses else None)
    unused |= {"objective.bin_width"}  # these numbers are no integers
    if complete.network.kind == "mlp":
        unused |= {"network.channels", "network.blocks", "network.attention", "network.patch"}
    else:
        unused |= {"network.width", "network.depth", "network.whitened"}
    if complete.noise.schedule not in ("ddpm", "ncsn"):
        unused |= {"noise.levels"}
    if complete.objective.times != "log_normal":
        unused |= {"objective.times_mean", "objective.times_std"}
    assert open_fields(complete) == unused
    assert complete.training.precision == "float32"
    for word in ("noise:", "objective:", "network:", "training:", "sampler:"):
        # A schedule that ends below the measured range says so besides.
        cut = word == "noise:" and any("below the measured" in sentence for sentence in said)
        assert sum(sentence.startswith(word) for sentence in said) == 1 + cut


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", PRESETS)
def test_law_resolving_twice_is_resolving_once(name: str, shape: tuple[int, ...]) -> None:
    once, _ = resolve(PRESETS[name](), facts(shape))
    assert resolve(once, facts(shape))[0] == once
    # Nor does it look at other data's facts once it is complete, but that a batch is never larger than the data.
    other = (7,) if len(shape) == 1 else (1, 16, 16)
    assert resolve(once, facts(other, rows=5000))[0] == once


@pytest.mark.parametrize(
    ("setting", "shape"),
    [
        ("noise.sigma_min=0.123", (5,)),
        ("noise.sigma_max=55.5", (5,)),
        ("noise.sigma_data=0.77", (5,)),
        ("noise.levels=17", (5,)),
        ("objective.times=uniform", (5,)),
        ("objective.times_mean=0", (5,)),
        ("objective.times_std=0.3", (5,)),
        ("network.width=17", (5,)),
        ("network.depth=1", (5,)),
        ("network.kind=mlp", (1, 8, 8)),
        ("network.patch=1", (3, 32, 32)),
        ("network.channels=8,8", (1, 8, 8)),
        ("training.batch=3", (5,)),
        ("training.learning_rate=0.5", (5,)),
        ("training.precision=bfloat16", (5,)),
        ("sampler.steps=3", (5,)),
        ("sampler.tolerance=0.3", (5,)),
    ],
)
@pytest.mark.parametrize("name", PRESETS)
def test_what_is_given_stays(name: str, setting: str, shape: tuple[int, ...]) -> None:
    path, _, _ = setting.partition("=")
    group, field = path.split(".")
    given = override(PRESETS[name](), [setting])
    complete, _ = resolve(given, facts(shape))
    assert plain(complete)[group][field] == plain(given)[group][field]


@pytest.mark.parametrize(
    ("settings", "steps", "tolerance", "said"),
    [
        (["name=auto"], None, TOLERANCE, f"for an error of {TOLERANCE:g} of the data's deviation"),
        (["name=fitted"], None, TOLERANCE, f"for an error of {TOLERANCE:g} of the data's deviation"),
        (["name=fitted", "tolerance=0.2"], None, 0.2, "for an error of 0.2 of the data's deviation"),
        (["name=auto", "steps=9"], 9, None, "fitted to the model after training, for 9 evaluations"),
        (["name=adaptive"], None, AdaptiveFlow().tolerance, "adaptive, an error of 0.001 a step"),
        (["name=adaptive_sde"], None, AdaptiveSDE().tolerance, "adaptive_sde, an error of 0.02 a step"),
        (["name=adaptive", "tolerance=0.2"], None, 0.2, "adaptive, an error of 0.2 a step"),
        (["name=heun"], 18, None, "sampler: heun"),
    ],
)
def test_a_sampler_is_asked_for_steps_or_for_an_error(
    settings: list[str], steps: int | None, tolerance: float | None, said: str
) -> None:
    complete, sentences = resolve(override(Recipe(), [f"sampler.{each}" for each in settings]), facts((5,)))
    assert (complete.sampler.steps, complete.sampler.tolerance) == (steps, tolerance)
    assert [said in each for each in sentences if each.startswith("sampler:")] == [True]
    build_sampler(complete.model_copy(update={"name": "any"}), "auto" if "fitted" in settings[0] else None)


def test_steps_of_an_adaptive_sampler_are_left_for_the_refusal() -> None:
    complete, _ = resolve(override(Recipe(), ["sampler.name=adaptive", "sampler.steps=5"]), facts((5,)))
    with pytest.raises(OptionError, match="adaptive finds its steps itself"):
        build_sampler(complete)


@pytest.mark.parametrize(("setting", "other"), [("training.steps=9", "budget"), ("training.budget=9", "steps")])
def test_a_given_end_of_training_brings_no_other_end(setting: str, other: str) -> None:
    complete, said = resolve(override(Recipe(), [setting]), facts((5,)))
    assert getattr(complete.training, other) is None
    assert any("at most 9" in sentence for sentence in said)


def test_the_measured_range_is_taken() -> None:
    measured = NoiseRange(0.9, 0.01, 7.0, 13, 7.0, 7.0, 0.1, None, 40, 5, "made up")
    complete, _ = resolve(PRESETS["ncsnv2"](), DataFacts((5,), 300, measured, torch.device("cpu")))
    noise = complete.noise
    assert (noise.sigma_data, noise.sigma_min, noise.sigma_max, noise.levels) == (0.9, 0.01, 7.0, 13)
    assert complete.sampler.steps == 13


@pytest.mark.parametrize("name", ["auto", "edm"])
@pytest.mark.parametrize("shape", [(5,), (1, 8, 8)])
def test_law_the_law_of_noise_moves_with_the_scale_of_the_data(name: str, shape: tuple[int, ...]) -> None:
    x = Stream(0, "test").normal(40, shape)
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    sigmas = []
    for scale in (1.0, 10.0):
        measured = measure_noise_range(scale * x)
        complete, _ = resolve(PRESETS[name](), DataFacts(shape, 300, measured, torch.device("cpu")))
        sigmas.append(build_objective(complete).times.quantile(u, build_schedule(complete.noise)))
    # Ten times the data, ten times the noise at every share of training; under edm t is σ.
    torch.testing.assert_close(sigmas[1], 10 * sigmas[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [1, 2, 3, 50, 10**6])
def test_a_batch_is_never_larger_than_the_data(rows: int) -> None:
    complete, _ = resolve(override(Recipe(), ["training.batch=1000"]), facts((5,), rows))
    assert complete.training.batch == min(1000, rows)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((5,), "mlp"), ((), "mlp"), ((1, 8, 8), "unet"), ((3, 4, 4), "unet"), ((1, 3, 8), "mlp"), ((2, 3, 4, 5), "mlp")],
)
def test_images_get_a_unet_and_the_rest_an_mlp(shape: tuple[int, ...], kind: str) -> None:
    x: Any = Stream(0, "test").normal(40, shape or (1,))
    complete, _ = resolve(Recipe(), DataFacts(shape, 300, measure_noise_range(x), torch.device("cpu")))
    assert complete.network.kind == kind


@pytest.mark.parametrize(("shape", "told"), [((5,), True), ((63,), True), ((64,), False), ((3, 32, 32), False)])
def test_ncsnv2_tells_the_level_only_to_rows_too_short_to_show_it(shape: tuple[int, ...], told: bool) -> None:
    complete, said = resolve(PRESETS["ncsnv2"](), facts(shape))
    assert complete.network.noise_conditional is told
    assert any("not told the noise level" in sentence for sentence in said) is not told
    for asked in (True, False):
        given = override(PRESETS["ncsnv2"](), [f"network.noise_conditional={str(asked).lower()}"])
        assert resolve(given, facts(shape))[0].network.noise_conditional is asked


def test_each_technique_of_ncsnv2_can_be_turned_off() -> None:
    measured = facts((100,))
    base, _ = resolve(PRESETS["ncsnv2"](), measured)
    assert (base.noise.sigma_max, base.noise.levels) == (measured.noise.sigma_max, measured.noise.levels)
    off = ["noise.sigma_max=3", "noise.levels=10", "network.noise_conditional=true", "sampler.size=0.2",
           "sampler.moves=100", "training.average=0"]  # fmt: skip
    for setting in off:
        path, _, value = setting.partition("=")
        group, name = path.split(".")
        complete, _ = resolve(override(PRESETS["ncsnv2"](), [setting]), measured)
        assert plain(complete)[group][name] == json.loads(value) != plain(base)[group][name]
    # With all but the first turned off it is NCSN.
    ncsn = override(PRESETS["ncsnv2"](), [*off[1:], "name=ncsn"])
    assert ncsn == PRESETS["ncsn"]()


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (["objective.criterion=implicit", "network.depth=4"], (784,), "784 backward passes.*--recipe sliced"),
        (["objective.criterion=implicit", "network.kind=unet"], (1, 28, 28), "784 backward passes.*more than 64"),
        (["objective.criterion=implicit", "network.energy=true"], (100,), "100 backward passes.*sliced"),
        (["objective.criterion=variational"], (5,), "needs noise.schedule ddpm or ncsn.*not edm"),
        (["objective.criterion=hybrid", "noise.schedule=vp"], (5,), "needs noise.schedule ddpm or ncsn.*not vp"),
        (
            ["objective.criterion=variational", "noise.schedule=ddpm", "objective.decoder=discretised"],
            (5,),
            "discretised is for integers, and these data are continuous",
        ),
    ],
)
def test_wrong_use_is_refused_before_training(settings: list[str], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(override(Recipe(), settings), facts(shape))


def test_a_trace_known_in_closed_form_is_not_refused() -> None:
    complete, _ = resolve(PRESETS["implicit"](), facts((3, 32, 32)))
    assert (complete.network.kind, complete.network.depth) == ("mlp", 2)
    few, _ = resolve(override(PRESETS["implicit"](), ["network.depth=4"]), facts((64,)))
    assert few.network.depth == 4


def test_the_decoder_follows_the_data() -> None:
    step = 0.25
    x = (Stream(0, "test").normal(40, (5,)) / step).round() * step
    whole = DataFacts((5,), 300, measure_noise_range(x, resolution=step), torch.device("cpu"), (step,) * 5)
    recipe = override(Recipe(), ["objective.criterion=hybrid", "noise.schedule=ddpm"])
    integers, _ = resolve(recipe, whole)
    assert (integers.objective.decoder, integers.objective.bin_width) == ("discretised", step)
    assert integers.objective.variance == "learned"  # which is what the hybrid loss is for
    steps = (0.25, 0.5, 0.25, 0.25, 1.0)
    uneven, _ = resolve(recipe, replace(whole, steps=steps))
    assert (uneven.objective.decoder, uneven.objective.bin_width) == ("discretised", steps)
    continuous, _ = resolve(recipe, facts((5,)))
    assert (continuous.objective.decoder, continuous.objective.bin_width) == ("gaussian", None)


def test_variance_is_reduced_where_it_pays() -> None:
    def chosen(name: str, shape: tuple[int, ...], *settings: str) -> tuple[int | None, object]:
        complete, said = resolve(override(PRESETS[name](), list(settings)), facts(shape, rows=50_000))
        assert sum(sentence.startswith("variance:") for sentence in said) == 1
        return complete.objective.reference, complete.training.antithetic

    assert chosen("auto", (2,)) == (256, True)
    assert chosen("auto", (2,), "training.batch=100") == (50, True)
    assert chosen("auto", (2,), "training.batch=1") == (1, False)
    assert chosen("auto", (16,)) == (256, True)
    assert chosen("auto", (17,)) == (1, True)
    assert chosen("auto", (1, 8, 8)) == (32, True)
    # Directions and traces have a variance of their own, which pairs make larger.
    assert chosen("sliced", (2,)) == chosen("implicit", (2,)) == (1, False)
    assert chosen("ddpm_vlb", (2,)) == (1, True)
    assert chosen("auto", (2,), "training.antithetic=false", "objective.reference=8") == (8, False)
    assert chosen("auto", (2,), "training.antithetic=false", "training.batch=64") == (64, False)
