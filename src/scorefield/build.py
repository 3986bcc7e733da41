"""From the names and numbers of a complete recipe to objects: the one place where a recipe's words choose code."""

from __future__ import annotations

import math

import torch

from scorefield.errors import OptionError
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.networks.unet import UNet
from scorefield.noise import EDM, VE, VP, Cosine, Discrete, Flow, Schedule, SubVP, linear_betas
from scorefield.objectives import weights
from scorefield.objectives.criteria import Denoising
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import LogNormal, LogUniform, TimeLaw, Uniform, UniformIntegers
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Parametrization, V, edm_f
from scorefield.recipes import NetworkSettings, NoiseSettings, Recipe
from scorefield.samplers import presets
from scorefield.samplers.presets import Sampler

_LARGEST_SIGMA = 1e4  # σ/α at which a flow ends


def build_model(recipe: Recipe, shape: tuple[int, ...], condition_features: int, seed: int) -> NetworkDenoiser:
    """An untrained denoiser.

    Args:
        recipe: complete.
        shape: of one encoded row.
        condition_features: width of an encoded condition, 0 without one.
        seed: of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # type: ignore[attr-defined]
        network = _network(recipe.network, shape, condition_features)
    sigma_data = _known(recipe.noise.sigma_data)
    schedule = build_schedule(recipe.noise)
    return NetworkDenoiser(
        network, schedule, _parametrization(recipe.objective.prediction, sigma_data), sigma_data, condition_features
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
            # Ho et al.'s table is made for 1000 levels; others keep its total noise.
            return Discrete(betas=tuple(min(0.999, b * 1000 / levels) for b in linear_betas(levels)))
        case "vp":
            return VP(t_min=float(VP().time_of_sigma(low)))
        case "subvp":
            return SubVP(t_min=float(SubVP().time_of_sigma(low)))
        case "cosine":
            return Cosine(t_min=float(Cosine().time_of_sigma(low)))
        case "flow":
            # At t = 1 nothing of the data is left, and a network has no input for σ/α = ∞.
            return Flow(t_min=float(Flow().time_of_sigma(low)), t_max=float(Flow().time_of_sigma(_LARGEST_SIGMA)))


def build_objective(recipe: Recipe) -> ScoreMatching:
    """The objective of a complete recipe."""
    settings = recipe.objective
    weight = {"one": weights.one, "sigma_squared": weights.sigma_squared}[settings.weight]
    criterion = Denoising(_parametrization(settings.loss, _known(recipe.noise.sigma_data)))
    laws: dict[str, TimeLaw] = {"uniform": Uniform(), "levels": UniformIntegers(), "log_uniform": LogUniform()}
    times = laws.get(settings.times or "") or _log_normal(recipe)
    if settings.times == "levels" and recipe.noise.schedule not in ("ddpm", "ncsn"):
        raise OptionError(
            f"objective.times=levels needs noise.schedule ddpm or ncsn, which have levels, not {recipe.noise.schedule}"
        )
    return ScoreMatching(times, criterion, weight)


def _log_normal(recipe: Recipe) -> LogNormal:
    """The recipe's mean is relative to σ_data."""
    mean = _known(recipe.objective.times_mean) + math.log(_known(recipe.noise.sigma_data))
    return LogNormal(mean, _known(recipe.objective.times_std))


def build_sampler(recipe: Recipe, name: str | None = None, steps: int | None = None) -> Sampler:
    """The sampler of a complete recipe, or another by name.

    Args:
        recipe: complete.
        name: one of the names of `SamplerSettings`, instead of the recipe's.
        steps: number of levels, instead of the recipe's or of the name's usual one.

    Raises:
        OptionError: for an unknown name.
    """
    made = {
        "ddpm": presets.ddpm(),
        "ddim": presets.ddim(),
        "ancestral": presets.ancestral(),
        "euler": presets.euler(),
        "heun": presets.heun(),
    }
    chosen = name or recipe.sampler.name
    count = steps or (recipe.sampler.steps if chosen == recipe.sampler.name else None)
    if chosen == "langevin":
        levels = count or recipe.noise.levels or 100
        ratio = (_known(recipe.noise.sigma_max) / _known(recipe.noise.sigma_min)) ** (1 / (levels - 1))
        return presets.annealed_langevin(levels, ratio, recipe.sampler.moves)
    if chosen not in made:
        raise OptionError(f"sampler {chosen!r} is not known; known are {', '.join([*made, 'langevin'])}")
    return made[chosen].with_steps(count) if count else made[chosen]


def _network(settings: NetworkSettings, shape: tuple[int, ...], condition_features: int) -> torch.nn.Module:
    if settings.kind == "mlp":
        return MLP(shape, settings.width or 256, settings.depth or 4, condition_features)
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
        )
    except ValueError as error:
        raise OptionError(f"network.channels={settings.channels}: {error}") from error


def _parametrization(name: str, sigma_data: float) -> Parametrization:
    known = {p.name: p for p in (X0, EPSILON, SCORE, V, VELOCITY)}
    return known.get(name) or edm_f(sigma_data)


def _known(value: float | None) -> float:
    if value is None:
        raise OptionError("the recipe is not complete: `resolve` it with the facts of the data first")
    return value
