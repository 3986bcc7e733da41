"""Recipes: everything that a fit is made of, as plain values; presets are functions that return one.

A value of None is chosen from the data by `resolve`, which says what it chose. `auto()` is `edm()` with nothing fixed.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from scorefield.training.settings import CheckpointSettings, TrainingSettings

Positive = Annotated[int, Field(ge=1)]
Notation = Literal["x0", "epsilon", "score", "v", "velocity", "F"]


class Settings(BaseModel):
    """Base of all parts: frozen, unknown names and non-finite numbers refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NoiseSettings(Settings):
    """The schedule and its range, in units of the encoded data; None means measured."""

    schedule: Literal["edm", "ve", "vp", "subvp", "cosine", "flow", "ddpm", "ncsn"] = "edm"
    sigma_min: float | None = Field(None, gt=0, description="smallest σ/α")
    sigma_max: float | None = Field(None, gt=0, description="largest σ/α")
    sigma_data: float | None = Field(None, gt=0, description="standard deviation of the data")
    levels: int | None = Field(None, ge=2, description="number of levels of ddpm (1000) and ncsn (measured)")


class ObjectiveSettings(Settings):
    """Times, criterion and weight, and what the network predicts."""

    prediction: Notation = Field("F", description="what the network predicts")
    loss: Notation = Field("F", description="the notation in which errors are squared")
    weight: str = Field("one", description="a name in scorefield.objectives.weights.WEIGHTS")
    times: Literal["uniform", "levels", "log_uniform", "log_normal"] | None = None
    times_mean: float | None = Field(None, description="of log σ/(α σ_data), for log_normal")
    times_std: float | None = Field(None, gt=0, description="of log σ/(α σ_data), for log_normal")


class NetworkSettings(Settings):
    """The network; an mlp reads width and depth, a unet the rest."""

    kind: str | None = Field(None, description="a name in scorefield.build.NETWORKS")
    width: int | None = Field(None, ge=1, description="features of each hidden layer")
    depth: int | None = Field(None, ge=1, description="hidden layers")
    channels: tuple[Positive, ...] | None = Field(None, min_length=1, description="at each resolution, finest first")
    blocks: tuple[Positive, ...] | None = Field(None, min_length=1, description="residual blocks at each resolution")
    attention: tuple[bool, ...] | None = Field(None, min_length=1, description="attention at each resolution")
    patch: int | None = Field(None, ge=1, description="pixels a side that enter as one")


class SamplerSettings(Settings):
    """The sampler that `sample` uses unless told otherwise."""

    name: str = Field("heun", description="a name in scorefield.samplers.presets.SAMPLERS")
    steps: int | None = Field(None, ge=2, description="levels of the grid")


class Recipe(Settings):
    """Everything that a fit is made of.

    Args:
        name: of the preset it came from.
        noise, objective, network, training, checkpoint, sampler: its parts.
    """

    name: str = "auto"
    noise: NoiseSettings = NoiseSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    sampler: SamplerSettings = SamplerSettings()


def auto() -> Recipe:
    """Chosen from the data: `edm` with a law of noise, a network and a length of training that suit it."""
    return Recipe(name="auto")


def edm() -> Recipe:
    """Karras et al. 2022, arXiv:2206.00364: F-prediction under log-normal noise, sampled by Heun.

    Their mean of log σ is −1.2 at σ_data = ½, so −1.2 + log 2 relative to σ_data.
    """
    objective = ObjectiveSettings(times="log_normal", times_mean=-1.2 + math.log(2), times_std=1.2)
    return Recipe(name="edm", objective=objective)


def ddpm() -> Recipe:
    """Ho et al. 2020, arXiv:2006.11239: ε-prediction over 1000 discrete levels, ancestral sampling."""
    return Recipe(
        name="ddpm",
        noise=NoiseSettings(schedule="ddpm"),
        objective=ObjectiveSettings(prediction="epsilon", loss="epsilon", times="levels"),
        sampler=SamplerSettings(name="ddpm"),
    )


def ncsn() -> Recipe:
    """Song & Ermon 2019 and 2020, arXiv:1907.05600 and 2006.09011: geometric levels, annealed Langevin.

    The network predicts ε, which is NCSNv2's unconditional network divided by σ (technique 3) up to the sign.
    """
    return Recipe(
        name="ncsn",
        noise=NoiseSettings(schedule="ncsn"),
        objective=ObjectiveSettings(prediction="epsilon", loss="score", weight="sigma_squared", times="levels"),
        sampler=SamplerSettings(name="langevin"),
    )


PRESETS = {"auto": auto, "edm": edm, "ddpm": ddpm, "ncsn": ncsn}


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    return values
