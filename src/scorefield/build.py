"""From the names and numbers of a complete recipe to objects: the one place where a recipe's words choose code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from scorefield.betas import linear_betas_between
from scorefield.data.schema import suggestion
from scorefield.errors import OptionError
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.networks.unet import UNet
from scorefield.noise import EDM, VE, VP, Cosine, Discrete, Flow, Schedule, SubVP
from scorefield.objectives.criteria import Denoising
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import LogNormal, LogUniform, TimeLaw, Uniform, UniformIntegers
from scorefield.objectives.weights import WEIGHTS
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Parametrization, V, edm_f
from scorefield.recipes import NetworkSettings, NoiseSettings, Notation, Recipe
from scorefield.samplers.presets import SAMPLERS, Sampler

T = TypeVar("T")


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
        made = _named(NETWORKS, recipe.network.kind or "mlp", "network.kind")
        network = made(recipe.network, shape, condition_features)
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
    """The objective of a complete recipe."""
    settings = recipe.objective
    weight = _named(WEIGHTS, settings.weight, "objective.weight")
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
    chosen = name or recipe.sampler.name
    sampler = _named(SAMPLERS, chosen, "sampler")()
    count = steps or (recipe.sampler.steps if chosen == recipe.sampler.name else None)
    return sampler.with_steps(count) if count else sampler


def _mlp(settings: NetworkSettings, shape: tuple[int, ...], condition_features: int) -> nn.Module:
    return MLP(shape, settings.width or 256, settings.depth or 4, condition_features)


def _unet(settings: NetworkSettings, shape: tuple[int, ...], condition_features: int) -> nn.Module:
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


Network = Callable[[NetworkSettings, tuple[int, ...], int], nn.Module]

NETWORKS: dict[str, Network] = {"mlp": _mlp, "unet": _unet}


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
