"""From the names and numbers of a complete recipe to objects: the one place where a recipe's words choose code."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from scorefield.betas import linear_betas_between
from scorefield.blocks import Blocks
from scorefield.data.schema import suggestion
from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.model import EnergyDenoiser, NetworkDenoiser
from scorefield.moments import ALL_AXES
from scorefield.networks.mlp import MLP
from scorefield.networks.unet import UNet
from scorefield.noise import EDM, VE, VP, Cosine, Flow, Schedule, SubVP
from scorefield.objectives.contrastive import ContrastiveDivergence
from scorefield.objectives.criteria import Criterion, Denoising
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import Importance, ImportantLevels, LogNormal, LogUniform, Uniform, UniformIntegers
from scorefield.objectives.variational import Hybrid, VariationalBound
from scorefield.objectives.weights import WEIGHTS
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Parametrization, V, edm_f
from scorefield.recipes import (
    BOUNDS,
    LEVELLED,
    NetworkSettings,
    NoiseSettings,
    Notation,
    ObjectiveSettings,
    Recipe,
    SamplerSettings,
)
from scorefield.samplers.adaptive import AdaptiveFlow
from scorefield.samplers.choice import TOLERANCE, Solvers
from scorefield.samplers.langevin import Langevin
from scorefield.samplers.predictors import Ancestral
from scorefield.samplers.presets import MOVES, SAMPLERS, AnySampler, Sampler, annealed_langevin, unipc
from scorefield.variational.bins import Bins
from scorefield.variational.step import fixed_large, fixed_small, learned

T = TypeVar("T")

_LEVELS = ("levels", "important_levels")
_VARIANCES = {"posterior": fixed_small, "beta": fixed_large, "learned": learned}


def build_model(
    recipe: Recipe, shape: tuple[int, ...], condition_features: int, seed: int, blocks: Blocks | None = None
) -> NetworkDenoiser:
    """An untrained denoiser.

    Args:
        recipe: complete.
        shape: of one encoded row.
        condition_features: width of an encoded condition, 0 without one.
        seed: of the initial weights.
        blocks: the numbers of a row that stand about vertices, if there are any.

    Raises:
        OptionError: for names that are not known, and parts that do not go together.
    """
    learns_variance = recipe.objective.variance == "learned"
    if learns_variance and recipe.objective.criterion not in BOUNDS:
        raise OptionError(
            f"objective.variance=learned: {recipe.objective.criterion} does not train a variance, "
            f"objective.criterion={' or '.join(BOUNDS)} does"
        )
    if learns_variance and recipe.network.energy:
        raise OptionError("network.energy=true: the gradient of an energy has no second output for a learned variance")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # type: ignore[attr-defined]
        made = _named(NETWORKS, recipe.network.kind or "mlp", "network.kind")
        network = made(recipe.network, shape, condition_features, 2 if learns_variance else 1)
    sigma_data = _known(recipe.noise.sigma_data)
    if recipe.network.whitened and (math.prod(shape) > ALL_AXES or recipe.network.energy):
        raise OptionError(
            f"network.whitened=true is for rows of at most {ALL_AXES} numbers, not of shape {shape}, and no energies"
        )
    parts = (network, build_schedule(recipe.noise), _parametrization(recipe.objective.prediction, sigma_data))
    told = recipe.network.noise_conditional is not False
    if recipe.network.energy:
        return EnergyDenoiser(*parts, sigma_data, condition_features, noise_conditional=told)
    return NetworkDenoiser(
        *parts,
        sigma_data,
        condition_features,
        noise_conditional=told,
        learned_variance=learns_variance,
        whitened=recipe.network.whitened is True,
        blocks=blocks,
    )


def build_schedule(noise: NoiseSettings) -> Schedule:
    """The schedule over the range of a complete recipe."""
    low, high, levels = _known(noise.sigma_min), _known(noise.sigma_max), noise.levels or 1000
    if low >= high:
        raise OptionError(f"noise.sigma_min {low:g} must lie below noise.sigma_max {high:g}")
    match noise.schedule:
        case "edm":
            return EDM(low, high)
        case "ve":
            return VE(low, high)
        case "ncsn":
            return Discrete(
                sigmas=tuple(torch.logspace(0, 1, levels, high / low, dtype=torch.float64).mul(low).tolist())
            )
        case "ddpm":
            return Discrete(betas=linear_betas_between(low, high, levels))
        case "vp":
            return VP(t_min=_time(VP(), low), t_max=_time(VP(), high))
        case "subvp":
            return SubVP(t_min=_time(SubVP(), low), t_max=_time(SubVP(), high))
        case "cosine":
            return Cosine(t_min=_time(Cosine(), low), t_max=_time(Cosine(), high))
        case "flow":
            return Flow(t_min=_time(Flow(), low), t_max=_time(Flow(), high))


def _time(schedule: Schedule, sigma: float) -> float:
    """The time with this σ/α.

    Raises:
        OptionError: when the schedule ends before.
    """
    end = schedule.at(schedule.t_max)
    if sigma > float(end.sigma / end.alpha):
        raise OptionError(
            f"noise.sigma_max={sigma:g}: {type(schedule).__name__} ends at σ/α = {float(end.sigma / end.alpha):.4g}; "
            "set a smaller one, or another noise.schedule"
        )
    return float(schedule.time_of_sigma(sigma))


def build_objective(recipe: Recipe) -> ScoreMatching:
    """The objective of a complete recipe.

    Raises:
        OptionError: for a weight that is not known, and parts that do not go together.
    """
    settings = recipe.objective
    sigma_data = _known(recipe.noise.sigma_data)
    weight = _named(WEIGHTS, settings.weight, "objective.weight")
    if settings.times in _LEVELS and recipe.noise.schedule not in LEVELLED:
        raise OptionError(
            f"objective.times={settings.times} needs noise.schedule ddpm or ncsn, which have levels, "
            f"not {recipe.noise.schedule}"
        )
    if settings.criterion in BOUNDS and settings.times not in _LEVELS:
        raise OptionError(
            f"objective.criterion={settings.criterion} is of whole levels: objective.times={settings.times} should be "
            f"{' or '.join(_LEVELS)}"
        )
    criterion = _criterion(recipe, _parametrization(settings.loss, sigma_data))
    match settings.times:
        case "important_levels":
            important = ImportantLevels(sigma_data)
            if settings.weight != "one":
                raise OptionError("objective.times=important_levels brings its own weight: leave objective.weight=one")
            return ScoreMatching(important, criterion, important.weight)
        case "uniform":
            return ScoreMatching(Uniform(), criterion, weight)
        case "levels":
            return ScoreMatching(UniformIntegers(), criterion, weight)
        case "log_uniform":
            return ScoreMatching(LogUniform(), criterion, weight)
        case "importance":
            return ScoreMatching(Importance(sigma_data), criterion, weight)
        case _:
            return ScoreMatching(_log_normal(recipe), criterion, weight)


def _criterion(recipe: Recipe, notation: Parametrization) -> Criterion:
    settings = recipe.objective
    match settings.criterion:
        case "denoising":
            return Denoising(notation, settings.reference or 1)
        case "implicit":
            return Implicit(notation)
        case "sliced":
            return Sliced(notation, settings.probes, settings.reduced_variance)
        case "finite_difference":
            return FiniteDifference(notation, settings.probes, settings.difference)
        case "variational":
            return VariationalBound(_VARIANCES[settings.variance], _bins(settings))
        case "hybrid":
            return Hybrid(bins=_bins(settings))
        case "contrastive":
            if not recipe.network.energy:
                raise OptionError("objective.criterion=contrastive needs an energy: set network.energy=true")
            return ContrastiveDivergence(Langevin(settings.moves))
        case "explicit":
            raise OptionError(
                "objective.criterion=explicit needs the true score, which data do not come with; "
                "from Python, objectives.criteria.Explicit(truth) has it"
            )


def _bins(settings: ObjectiveSettings) -> Bins | None:
    width = settings.bin_width
    return None if width is None else Bins(torch.tensor(width, dtype=torch.float64))


def _log_normal(recipe: Recipe) -> LogNormal:
    """The recipe's mean is relative to σ_data."""
    mean = _known(recipe.objective.times_mean) + math.log(_known(recipe.noise.sigma_data))
    return LogNormal(mean, _known(recipe.objective.times_std))


def build_sampler(
    recipe: Recipe,
    name: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    solvers: Solvers | None = None,
) -> AnySampler:
    """The sampler of a complete recipe, or another by name.

    Args:
        recipe: complete.
        name: one of the names of `SAMPLERS`, "fitted" or "auto", instead of the recipe's.
        steps: number of levels, or of evaluations of a fitted solver, instead of the recipe's or of the usual one.
        tolerance: of "auto" and "fitted", the distance that rows may end from the exact paths, in units of the data's
            deviation; of adaptive ones, the error of a step.
        solvers: that were fitted to the model. Without them "auto" is UniPC, or the adaptive flow for a tolerance; with
            them, too, where none is within the tolerance.

    Raises:
        OptionError: for an unknown name, for options of another sampler, and for "fitted" without solvers.
    """
    chosen = recipe.sampler.name if name is None else name
    own = recipe.sampler if chosen == recipe.sampler.name else SamplerSettings(name=chosen)
    if chosen != "langevin" and (own.moves is not None or own.size is not None):
        raise OptionError(f"sampler.moves and sampler.size are of langevin, not of {chosen}")
    if steps is not None:
        steps = _whole(steps)
        if steps < 2:
            raise OptionError(f"steps must be at least 2, got {steps}")
    if steps is not None and tolerance is not None:
        raise OptionError(f"steps or a tolerance, not both: got {steps} and {tolerance:g}")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise OptionError(f"a tolerance is positive and finite, got {tolerance}")
    count = None if tolerance is not None else steps or own.steps
    asked = None if steps is not None else tolerance or own.tolerance
    if chosen in ("auto", "fitted") and count and asked:
        raise OptionError(f"sampler.steps or sampler.tolerance, not both: got {count} and {asked:g}")
    if chosen == "fitted" and solvers is None:
        raise OptionError(
            "no solver was fitted to this model: choose another sampler, train it for longer, or call "
            "Bundle.with_solvers"
        )
    if chosen in ("auto", "fitted") and solvers is not None:
        found = solvers.at_most(count) if count else solvers.within(asked or TOLERANCE)
        return AdaptiveFlow(tolerance) if chosen == "auto" and tolerance and found.error > tolerance else found
    if chosen == "auto" and tolerance is not None:
        return AdaptiveFlow(tolerance)
    # Fitted ones have been taken above; here they are for the list of names.
    sampler = _named({"auto": unipc, "fitted": unipc, **SAMPLERS}, chosen, "sampler")()
    if not isinstance(sampler, Sampler):
        if count:
            raise OptionError(f"{chosen} finds its steps itself: it takes a tolerance, not {count} steps")
        return replace(sampler, tolerance=asked) if asked else sampler
    if asked is not None and chosen != "auto":
        raise OptionError(f"a tolerance is of auto, fitted and the adaptive samplers; {chosen} takes steps")
    if chosen == "langevin":
        sampler = annealed_langevin(sampler.steps, own.moves or MOVES, own.size)
    if recipe.objective.variance == "beta" and isinstance(sampler.predictor, Ancestral) and sampler.predictor.eta == 1:
        sampler = replace(sampler, predictor=Ancestral(1.0, fixed_large))
    return sampler.with_steps(count) if count else sampler


def _mlp(settings: NetworkSettings, shape: tuple[int, ...], condition_features: int, outputs: int) -> nn.Module:
    return MLP(shape, settings.width or 256, settings.depth or 4, condition_features, outputs=outputs)


def _unet(settings: NetworkSettings, shape: tuple[int, ...], condition_features: int, outputs: int) -> nn.Module:
    if len(shape) != 3:
        raise OptionError(f"network.kind=unet needs rows of shape (C, H, W), these have {shape}: use mlp")
    lengths = {len(part or ()) for part in (settings.channels, settings.blocks, settings.attention)}
    if len(lengths) != 1:
        raise OptionError("network.channels, blocks and attention need one entry for each resolution")
    try:
        return UNet(
            shape[0],
            channels=settings.channels or (),
            blocks=settings.blocks or (),
            attention=settings.attention or (),
            patch=settings.patch or 1,
            condition_features=condition_features,
            outputs=outputs,
        )
    except ValueError as error:
        raise OptionError(f"network.channels={settings.channels}: {error}") from error


Network = Callable[[NetworkSettings, tuple[int, ...], int, int], nn.Module]

NETWORKS: dict[str, Network] = {"mlp": _mlp, "unet": _unet}


def _whole(steps: int) -> int:
    try:
        if not isinstance(steps, bool):
            return operator.index(steps)
    except TypeError:
        pass
    raise OptionError(f"steps must be a whole number, got {steps}")


def _named(table: dict[str, T], name: str, what: str) -> T:
    """The line of a table.

    Raises:
        OptionError: for a name that it does not have.
    """
    if name not in table:
        raise OptionError(f"{what} {name!r} is not known{suggestion(name, list(table))}; there are {', '.join(table)}")
    return table[name]


def _parametrization(name: Notation, sigma_data: float) -> Parametrization:
    notations = {p.name: p for p in (X0, EPSILON, SCORE, V, VELOCITY, edm_f(sigma_data))}
    return notations[name]


def _known(value: float | None) -> float:
    if value is None:
        raise OptionError("the recipe is not complete: `resolve` it with the facts of the data first")
    return value
