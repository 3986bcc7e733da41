"""From a recipe and the data's measures to a complete recipe, with a sentence for each choice that was made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorefield.noise_range import NoiseRange
from scorefield.recipes import (
    NetworkSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    SamplerSettings,
)
from scorefield.training.device import pick_precision
from scorefield.training.settings import TrainingSettings


@dataclass(frozen=True)
class DataFacts:
    """What a recipe is completed from.

    Args:
        shape: of one encoded row.
        rows: to train on.
        noise: the measured noise range.
        device: to train on.
    """

    shape: tuple[int, ...]
    rows: int
    noise: NoiseRange
    device: torch.device

    @property
    def is_image(self) -> bool:
        """Whether rows are (C, H, W) with sides that a convolution can use."""
        return len(self.shape) == 3 and min(self.shape[1:]) >= 4

    @property
    def numbers(self) -> int:
        """D, numbers in a row."""
        return math.prod(self.shape)


def resolve(recipe: Recipe, facts: DataFacts) -> tuple[Recipe, list[str]]:
    """Fill every None of a recipe.

    Args:
        recipe: any.
        facts: of the data.

    Returns:
        a complete recipe, and a sentence for each group of choices.
    """
    said: list[str] = []
    noise = _noise(recipe.noise, facts, said)
    objective = _objective(recipe.objective, noise, facts, said)
    network = _network(recipe.network, facts, said)
    training = _training(recipe.training, network, facts, said)
    sampler = _sampler(recipe.sampler, noise, facts, said)
    update = {"noise": noise, "objective": objective, "network": network, "training": training, "sampler": sampler}
    return recipe.model_copy(update=update), said


def _noise(given: NoiseSettings, facts: DataFacts, said: list[str]) -> NoiseSettings:
    measured = facts.noise
    levels = given.levels or {"ddpm": 1000, "ncsn": measured.levels}.get(given.schedule)
    noise = given.model_copy(
        update={
            "sigma_min": given.sigma_min or measured.sigma_min,
            "sigma_max": given.sigma_max or measured.sigma_max,
            "sigma_data": given.sigma_data or measured.sigma_data,
            "levels": levels,
        }
    )
    text = (
        f"noise: {noise.schedule}, σ from {noise.sigma_min:.4g} to {noise.sigma_max:.4g}, σ_data {noise.sigma_data:.4g}"
    )
    said.append(text + (f", {levels} levels" if levels else ""))
    return noise


def _objective(given: ObjectiveSettings, noise: NoiseSettings, facts: DataFacts, said: list[str]) -> ObjectiveSettings:
    times = given.times or ("log_normal" if facts.is_image else "log_uniform")
    assert noise.sigma_data is not None
    mean = given.times_mean
    if times == "log_normal" and mean is None:
        # EDM's mean −1.2 belongs to σ_data = ½.
        mean = -1.2 + math.log(noise.sigma_data / 0.5)
    std = given.times_std or (1.2 if times == "log_normal" else None)
    objective = given.model_copy(update={"times": times, "times_mean": mean, "times_std": std})
    law = f"{times} ({mean:.3g}, {std:.3g})" if mean is not None and std is not None else times
    said.append(f"objective: predicts {given.prediction}, squared in {given.loss}, noise {law}")
    return objective


def _network(given: NetworkSettings, facts: DataFacts, said: list[str]) -> NetworkSettings:
    kind = given.kind or ("unet" if facts.is_image else "mlp")
    if kind == "mlp":
        width = given.width or (128 if facts.rows < 1000 else 256 if facts.numbers <= 256 else 512)
        depth = given.depth or (3 if facts.rows < 1000 else 4)
        said.append(f"network: mlp, {depth} hidden layers of {width}")
        return given.model_copy(update={"kind": kind, "width": width, "depth": depth})
    chosen = _unet(facts)
    network = given.model_copy(
        update={name: value for name, value in chosen.items() if getattr(given, name) is None} | {"kind": kind}
    )
    said.append(
        f"network: unet, channels {network.channels}, blocks {network.blocks}, attention {network.attention}, "
        f"patch {network.patch}"
    )
    return network


def _unet(facts: DataFacts) -> dict[str, tuple[int, ...] | tuple[bool, ...] | int]:
    if max(facts.shape[1:]) <= 12:
        return {"channels": (64, 128), "blocks": (2, 2), "attention": (False, True), "patch": 1}
    if max(facts.shape[1:]) <= 40:
        return {"channels": (64, 128), "blocks": (1, 2), "attention": (False, True), "patch": 2}
    return {"channels": (64, 128, 256), "blocks": (1, 2, 2), "attention": (False, False, True), "patch": 2}


def _training(given: TrainingSettings, network: NetworkSettings, facts: DataFacts, said: list[str]) -> TrainingSettings:
    unet = network.kind == "unet"
    batch = given.batch or (64 if unet else min(1024, max(32, 1 << (facts.rows // 4).bit_length())))
    batch = min(batch, max(1, facts.rows))
    learning_rate = given.learning_rate or (1e-3 if unet else 2e-3)
    steps, budget = given.steps, given.budget
    if steps is None and budget is None:
        steps, budget = (30_000, 720.0) if unet else (12_000, 45.0)
        if facts.numbers <= 144 and unet:
            steps, budget = 6_000, 150.0
    precision, reason = given.precision, "as asked"
    if precision == "auto":
        picked, reason = pick_precision(facts.device)
        precision = "bfloat16" if picked == "bfloat16" else "float32"
    training = given.model_copy(
        update={
            "batch": batch,
            "learning_rate": learning_rate,
            "steps": steps,
            "budget": budget,
            "precision": precision,
        }
    )
    until = " or ".join(text for text in (f"{steps} steps" if steps else "", f"{budget:g} s" if budget else "") if text)
    said.append(f"training: batch {batch}, learning rate {learning_rate:g}, at most {until}, {precision} ({reason})")
    return training


def _sampler(given: SamplerSettings, noise: NoiseSettings, facts: DataFacts, said: list[str]) -> SamplerSettings:
    defaults = {"ddpm": 1000, "ddim": 50, "ancestral": 250, "euler": 50, "heun": 18}
    steps = given.steps or (defaults.get(given.name) or noise.levels or facts.noise.levels)
    said.append(f"sampler: {given.name}, {steps} levels")
    return given.model_copy(update={"steps": steps})
