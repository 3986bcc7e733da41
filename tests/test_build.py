"""From a complete recipe to objects: every preset and schedule builds, learns and samples; JSON builds the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from scorefield.build import build_model, build_objective, build_sampler, build_schedule
from scorefield.errors import OptionError
from scorefield.model import NetworkDenoiser
from scorefield.noise_range import measure_noise_range
from scorefield.overrides import override
from scorefield.randomness import Noise, Stream
from scorefield.recipes import PRESETS, Recipe, SamplerSettings, plain
from scorefield.resolve import DataFacts, resolve
from scorefield.samplers.choice import TOLERANCE, Solvers
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.predictors import Ancestral
from scorefield.samplers.presets import SAMPLERS, Sampler, unipc
from scorefield.variational.step import fixed_large, learned_or_small

SHAPES = {"table": (3,), "image": (1, 8, 8)}
SCHEDULES = ("edm", "ve", "vp", "subvp", "cosine", "flow", "ddpm", "ncsn")
SMALL = {
    "table": ["network.width=16", "network.depth=2"],
    "image": ["network.channels=32,32", "network.blocks=1,1", "network.attention=false,true"],
}


def complete(recipe: Recipe, shape: tuple[int, ...], settings: list[str] | None = None) -> Recipe:
    kind = "image" if len(shape) == 3 else "table"
    x = Stream(0, "test").normal(60, shape)
    small = override(recipe, ["training.precision=float32", *SMALL[kind], *(settings or [])])
    return resolve(small, DataFacts(shape, 60, measure_noise_range(x), torch.device("cpu")))[0]


def losses(recipe: Recipe, model: NetworkDenoiser, shape: tuple[int, ...]) -> torch.Tensor:
    x0, noise = Stream(1, "x0").normal(12, shape), Noise(Stream(1, "epsilon"), range(12), 0)
    return build_objective(recipe)(model, x0, noise, torch.linspace(0.01, 0.99, 12, dtype=torch.float64))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns_and_samples(name: str, kind: str) -> None:
    shape = SHAPES[kind]
    recipe = complete(PRESETS[name](), shape)
    model = build_model(recipe, shape, 0, seed=0)
    loss = losses(recipe, model, shape)
    assert loss.shape == (12,)
    # Without a target a loss is known up to a number, and may be negative; so may one of densities.
    assert (loss > 0).all() or recipe.objective.criterion in ("sliced", "implicit", "variational")
    loss.mean().backward()
    assert any(bool(p.grad is not None and p.grad.any()) for p in model.parameters())
    steps = None if recipe.sampler.name == "langevin" and kind == "table" else 4
    drawn = build_sampler(recipe, steps=steps)(model.eval(), 5, shape, seed=0)
    assert drawn.shape == (5, *shape)
    assert drawn.isfinite().all()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", PRESETS)
def test_law_json_builds_the_same_objects(name: str, kind: str) -> None:
    shape = SHAPES[kind]
    recipe = complete(PRESETS[name](), shape)
    again = Recipe.model_validate(json.loads(json.dumps(plain(recipe))))
    assert build_schedule(again.noise) == build_schedule(recipe.noise)
    assert build_sampler(again).name == build_sampler(recipe).name
    first, second = build_model(recipe, shape, 2, seed=5), build_model(again, shape, 2, seed=5)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    condition = torch.tensor([[1.0, 0.0]])
    assert torch.equal(losses(recipe, first.given(condition), shape), losses(again, second.given(condition), shape))
    draw = [
        build_sampler(r, steps=3)(m.given(condition).eval(), 4, shape, seed=1)
        for r, m in ((recipe, first), (again, second))
    ]
    assert torch.equal(*draw)


@pytest.mark.parametrize("times", ["uniform", "log_uniform", "log_normal"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["x0", "epsilon", "score", "v", "velocity", "F"])
def test_every_schedule_with_every_prediction_and_law(schedule: str, prediction: str, times: str) -> None:
    settings = [
        f"noise.schedule={schedule}",
        f"objective.prediction={prediction}",
        f"objective.loss={prediction}",
        f"objective.times={times}",
    ]
    recipe = complete(Recipe(), (3,), settings)
    model = build_model(recipe, (3,), 0, seed=0)
    assert losses(recipe, model, (3,)).isfinite().all()
    for sampler in ("heun", "ddim", "ddpm"):
        assert build_sampler(recipe, sampler, 4)(model.eval(), 3, (3,), seed=0).isfinite().all()


def test_the_seed_decides_the_first_weights_and_nothing_outside_changes() -> None:
    recipe = complete(Recipe(), (3,))
    before = torch.random.get_rng_state()
    first, same, other = (build_model(recipe, (3,), 0, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_by_name_with_its_own_or_other_steps(name: str) -> None:
    recipe = complete(Recipe(), (3,))
    sampler = build_sampler(recipe, name)
    assert sampler.name == name
    if not isinstance(sampler, Sampler):
        with pytest.raises(OptionError, match=rf"{name} finds its steps itself.*not 7 steps"):
            build_sampler(recipe, name, 7)
        assert build_sampler(recipe, name, tolerance=0.3) == replace(sampler, tolerance=0.3)  # type: ignore[type-var]
        return
    again = build_sampler(recipe, name, 7)
    assert isinstance(again, Sampler)
    assert again.steps == 7
    with pytest.raises(OptionError, match=f"a tolerance is of auto, fitted and the adaptive samplers; {name} takes"):
        build_sampler(recipe, name, tolerance=0.3)
    # The steps of the recipe belong to its own sampler alone.
    for own in ("heun", "ddim"):
        given = {"name": own, "steps": 5, "tolerance": None}
        fixed = build_sampler(recipe.model_copy(update={"sampler": SamplerSettings.model_validate(given)}), name)
        assert isinstance(fixed, Sampler)
        assert (fixed.steps == 5) == (name == own)


def solvers(**errors: float) -> Solvers:
    """Of made up solvers, by their error: e5=0.1 has 5 evaluations."""
    made = []
    for name, error in errors.items():
        times = tuple(float(t) for t in range(int(name[1:]), 0, -1))
        made.append(FittedSolver(times, ((1.0, 0.0),) * len(times), error, error / 10))
    return Solvers(tuple(made))


def sampled(name: str, **fields: float) -> Recipe:
    return Recipe(sampler=SamplerSettings.model_validate({"name": name, **fields}))


@pytest.mark.parametrize("name", ["auto", "fitted"])
def test_a_fitted_solver_is_taken_by_steps_or_by_error(name: str) -> None:
    fitted = solvers(e4=0.3, e8=0.05, e20=TOLERANCE / 2, e50=TOLERANCE / 9)

    def taken(recipe: Recipe, *options: float | None) -> int:
        sampler = build_sampler(recipe, None, *options, solvers=fitted)  # type: ignore[arg-type]
        assert isinstance(sampler, FittedSolver)
        return sampler.steps

    assert taken(sampled(name)) == 20  # at the usual tolerance
    assert taken(sampled(name, tolerance=0.1)) == 8
    assert taken(sampled(name, steps=5)) == 4
    # What is asked for now counts, not what the recipe says.
    assert taken(sampled(name, tolerance=0.1), 5) == 4
    assert taken(sampled(name, steps=5), None, 0.1) == 8
    assert taken(sampled(name, steps=5), 49) == 20
    # What none of them reaches on request the adaptive flow does.
    closer = build_sampler(sampled(name), None, None, TOLERANCE / 90, solvers=fitted)
    assert closer.name == ("adaptive" if name == "auto" else "fitted")
    assert taken(sampled(name, tolerance=TOLERANCE / 90)) == 50
    # Other samplers do not look at them, and by name they are to be had in every recipe.
    assert build_sampler(sampled(name), "heun", solvers=fitted).name == "heun"
    by_name = build_sampler(sampled("heun", steps=5), name, solvers=fitted)
    assert isinstance(by_name, FittedSolver)
    assert by_name.steps == 20


def test_auto_without_solvers_is_unipc_and_fitted_is_refused() -> None:
    assert build_sampler(sampled("auto")) == unipc()
    assert build_sampler(sampled("auto", tolerance=0.3)) == unipc()
    assert build_sampler(sampled("auto", steps=7)) == unipc(7)
    assert build_sampler(sampled("auto"), steps=9) == unipc(9)
    for recipe, name in ((sampled("fitted"), None), (Recipe(), "fitted")):
        with pytest.raises(OptionError, match=r"no solver was fitted to this model: .*train it for longer"):
            build_sampler(recipe, name)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (1.0, 1.0)])
def test_a_range_upside_down_is_refused_under_every_schedule(schedule: str, low: float, high: float) -> None:
    settings = [f"noise.sigma_min={low}", f"noise.sigma_max={high}", f"noise.schedule={schedule}"]
    recipe = complete(Recipe(), (3,), settings)
    with pytest.raises(OptionError, match=f"sigma_min {low:g} must lie below noise.sigma_max {high:g}"):
        build_model(recipe, (3,), 0, seed=0)


@pytest.mark.parametrize("shape", [(3,), (4, 5)])
def test_a_unet_on_rows_that_are_no_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=r"unet needs rows of shape \(C, H, W\).*use mlp"):
        complete(Recipe(), shape, ["network.kind=unet"])
    with pytest.raises(OptionError, match=r"unet needs rows of shape \(C, H, W\).*use mlp"):
        build_model(complete(Recipe(), (1, 8, 8)), shape, 0, seed=0)


def test_a_unet_with_parts_of_unequal_length_is_refused() -> None:
    recipe = complete(Recipe(), (1, 8, 8), [])
    with pytest.raises(OptionError, match="one entry for each resolution"):
        build_model(override(recipe, ["network.channels=32,32,32"]), (1, 8, 8), 0, seed=0)
    with pytest.raises(OptionError, match=r"network.channels=\(16, 20\).*20 channels"):
        build_model(override(recipe, ["network.channels=16,20"]), (1, 8, 8), 0, seed=0)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (9, 4)])
def test_more_resolutions_than_pixels_still_work(size: tuple[int, int]) -> None:
    settings = ["network.channels=32,32,32,32", "network.blocks=1,1,1,1", "network.attention=false,false,false,true"]
    recipe = complete(Recipe(), (1, 8, 8))
    model = build_model(override(recipe, [*settings, "network.patch=2"]), (1, *size), 0, seed=0)
    assert losses(recipe, model, (1, *size)).isfinite().all()


def test_levels_on_a_schedule_without_levels_are_refused_before_training() -> None:
    # Time 1 is a whole number of many of them, and training at that one level alone would go unnoticed.
    for schedule in set(SCHEDULES) - {"ddpm", "ncsn"}:
        recipe = complete(Recipe(), (3,), [f"noise.schedule={schedule}", "objective.times=levels"])
        with pytest.raises(OptionError, match=f"times=levels needs.*{schedule}"):
            build_objective(recipe)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (sampled("auto"), (None, 1, None), "steps must be at least 2, got 1"),
        (sampled("heun"), (None, 0, None), "steps must be at least 2, got 0"),
        (sampled("heun"), (None, 5.5, None), "steps must be a whole number, got 5.5"),
        (sampled("auto"), ("fited", None, None), "'fited' is not known, did you mean 'fitted'"),
        (sampled("auto"), (None, 5, 0.1), "steps or a tolerance, not both: got 5 and 0.1"),
        (sampled("auto", steps=5, tolerance=0.1), (None, None, None), "sampler.steps or sampler.tolerance, not both"),
        (sampled("auto"), (None, None, 0.0), "a tolerance is positive and finite, got 0"),
        (sampled("auto"), (None, None, -1.0), "got -1"),
        (sampled("adaptive"), (None, None, math.nan), "got nan"),
        (sampled("adaptive_sde"), (None, None, math.inf), "got inf"),
        (sampled("adaptive", steps=5), (None, None, None), "adaptive finds its steps itself: it takes a tol.*not 5"),
        (sampled("heun", tolerance=0.1), (None, None, None), "adaptive samplers; heun takes steps"),
        (sampled("auto"), (None, 3, None), "fitted to this model for 4 evaluations and more, got 3"),
        (sampled("adaptive", moves=3), (None, None, None), "are of langevin, not of adaptive"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    recipe: Recipe, options: tuple[str | None, int | None, float | None], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        build_sampler(recipe, *options, solvers=solvers(e4=0.1, e8=0.01))


def test_an_unknown_sampler_and_an_incomplete_recipe_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'hun' is not known.*heun"):
        build_sampler(complete(Recipe(), (3,)), "hun")
    with pytest.raises(OptionError, match="not complete"):
        build_schedule(Recipe().noise)


@pytest.mark.parametrize("schedule", ["edm", "ve", "ncsn", "ddpm", "vp", "subvp", "cosine", "flow"])
def test_every_schedule_spans_the_measured_range(schedule: str) -> None:
    measured = measure_noise_range(Stream(0, "data").normal(500, (3,)))
    recipe, _ = resolve(
        override(Recipe(), [f"noise.schedule={schedule}"]), DataFacts((3,), 500, measured, torch.device("cpu"))
    )
    built = build_schedule(recipe.noise)
    ends = built.at(torch.tensor([built.t_min, built.t_max]))
    assert (ends.sigma / ends.alpha).tolist() == pytest.approx([measured.sigma_min, measured.sigma_max], rel=1e-5)


def test_a_range_that_a_schedule_does_not_reach_is_cut_aloud_when_measured_and_refused_when_asked_for() -> None:
    far = measure_noise_range(200 * Stream(0, "data").normal(500, (3,)))
    facts = DataFacts((3,), 500, far, torch.device("cpu"))
    recipe, said = resolve(override(Recipe(), ["noise.schedule=vp"]), facts)
    assert any("below the measured σ_max" in text for text in said)
    build_schedule(recipe.noise)
    asked, _ = resolve(override(Recipe(), ["noise.schedule=vp", "noise.sigma_max=1000"]), facts)
    with pytest.raises(OptionError, match="VP ends at σ/α"):
        build_schedule(asked.noise)


@pytest.mark.parametrize(
    ("setting", "known"),
    [("network.kind=cnn", "mlp, unet"), ("objective.weight=sigma_sqared", "did you mean 'sigma_squared'")],
)
def test_a_name_that_no_table_has_is_refused_with_those_it_has(setting: str, known: str) -> None:
    measured = measure_noise_range(Stream(0, "data").normal(500, (3,)))
    recipe, _ = resolve(override(Recipe(), [setting]), DataFacts((3,), 500, measured, torch.device("cpu")))
    build = (lambda: build_model(recipe, (3,), 0, 0)) if "network" in setting else (lambda: build_objective(recipe))
    with pytest.raises(OptionError, match=known):
        build()


def test_annealed_langevin_steps_by_the_ratio_of_its_own_levels() -> None:
    # Of a model on VP the levels span another range than the recipe's σ_min and σ_max would say.
    sampler = build_sampler(Recipe(), "langevin", 20)
    assert sampler.corrector is not None
    near = sampler.corrector(torch.logspace(1, 0, 20))
    far = sampler.corrector(torch.logspace(3, 0, 20))
    # More noise to lose at each level takes larger steps.
    assert far.size > near.size  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ddpm", "ancestral"])
def test_the_variance_that_was_trained_is_the_one_added(name: str) -> None:
    settings = ["objective.criterion=variational", "noise.schedule=ddpm", "objective.times=levels"]
    for variance, expected in (("beta", fixed_large), ("posterior", learned_or_small), ("learned", learned_or_small)):
        recipe = complete(Recipe(), (3,), [*settings, f"objective.variance={variance}"])
        assert build_sampler(recipe, name).predictor == Ancestral(1.0, expected)
    assert build_sampler(recipe, "ddim").predictor == Ancestral(0.0)
