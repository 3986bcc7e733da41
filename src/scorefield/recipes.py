"""Recipes: everything that a fit is made of, as plain values; presets are functions that return one.

A value of None is chosen from the data by `resolve`, which says what it chose. `auto()` is `edm()` with nothing fixed.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from scorefield.training.settings import CheckpointSettings, TrainingSettings

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[float, Field(gt=0)]
Notation = Literal["x0", "epsilon", "score", "v", "velocity", "F"]
Criterion = Literal[
    "denoising", "implicit", "sliced", "finite_difference", "variational", "hybrid", "contrastive", "explicit"
]
BOUNDS = ("variational", "hybrid")  # the criteria that train the variational bound
LEVELLED = ("ddpm", "ncsn")  # the schedules that have levels
Times = Literal["uniform", "levels", "log_uniform", "log_normal", "importance", "important_levels"]


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

    criterion: Criterion = Field("denoising", description="what is compared")
    prediction: Notation = Field("F", description="what the network predicts")
    loss: Notation = Field("F", description="the notation in which errors are squared")
    weight: str = Field("one", description="a name in scorefield.objectives.weights.WEIGHTS")
    times: Times | None = Field(None, description="law of t in training")
    times_mean: float | None = Field(None, description="of log σ/(α σ_data), for log_normal")
    times_std: float | None = Field(None, gt=0, description="of log σ/(α σ_data), for log_normal")
    reference: int | None = Field(
        None, ge=1, description="rows of a batch that stand together for the clean data of each, of denoising"
    )
    probes: int = Field(1, ge=1, description="random directions a row, of sliced and finite_difference")
    reduced_variance: bool = Field(True, description="‖s‖² in full, of sliced")
    difference: float = Field(0.1, gt=0, lt=1, description="step as a share of the noise, of finite_difference")
    variance: Literal["posterior", "beta", "learned"] = Field(
        "posterior",
        description="of a step down, trained by variational and hybrid (always learned), added by ddpm and ancestral",
    )
    decoder: Literal["auto", "gaussian", "discretised"] = Field(
        "auto", description="the last step of variational and hybrid; auto is discretised for integers"
    )
    bin_width: Width | tuple[Width, ...] | None = Field(
        None,
        description="of the discretised decoder, in units of the encoded data: one, or one for each number of a row",
    )
    moves: int = Field(10, ge=1, description="Langevin moves of contrastive")


class NetworkSettings(Settings):
    """The network; an mlp reads width and depth, a unet the rest."""

    kind: str | None = Field(None, description="a name in scorefield.build.NETWORKS")
    width: int | None = Field(None, ge=1, description="features of each hidden layer")
    depth: int | None = Field(None, ge=1, description="hidden layers")
    channels: tuple[Positive, ...] | None = Field(None, min_length=1, description="at each resolution, finest first")
    blocks: tuple[Positive, ...] | None = Field(None, min_length=1, description="residual blocks at each resolution")
    attention: tuple[bool, ...] | None = Field(None, min_length=1, description="attention at each resolution")
    patch: int | None = Field(None, ge=1, description="pixels a side that enter as one")
    noise_conditional: bool | Literal["auto"] = Field(
        True, description="whether it is told the noise level; auto: only where rows are too short to show it"
    )
    energy: bool = Field(False, description="whether the score is the gradient of an energy")
    whitened: bool | None = Field(
        None, description="whether input and output are scaled along the principal axes of the data, each by its own"
    )


class SamplerSettings(Settings):
    """The sampler that `sample` uses unless told otherwise."""

    name: str = Field(
        "auto",
        description="a name in scorefield.samplers.presets.SAMPLERS; auto and fitted are solvers fitted to the model",
    )
    steps: int | None = Field(None, ge=2, description="levels of the grid, or evaluations of a fitted solver")
    tolerance: float | None = Field(
        None,
        gt=0,
        description="how far rows may end from the exact paths, in units of the data's deviation, of auto and fitted; "
        "the error of a step, of adaptive and adaptive_sde",
    )
    moves: int | None = Field(None, ge=1, description="Langevin moves at each level, of langevin")
    size: float | None = Field(None, gt=0, lt=4, description="ε/σ² of a Langevin move; None is NCSNv2's rule")


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
    return Recipe(name="edm", objective=objective, sampler=SamplerSettings(name="heun"))


def ddpm() -> Recipe:
    """Ho et al. 2020, arXiv:2006.11239: ε-prediction over 1000 discrete levels, ancestral sampling."""
    return Recipe(
        name="ddpm",
        noise=NoiseSettings(schedule="ddpm"),
        objective=ObjectiveSettings(prediction="epsilon", loss="epsilon", times="levels"),
        sampler=SamplerSettings(name="ddpm"),
    )


def ddpm_vlb() -> Recipe:
    """Nichol & Dhariwal 2021, arXiv:2102.09672: the variational bound itself, with learned variances.

    Levels are drawn by importance; the loss is nats per dimension, but for the term of the first draw.
    """
    objective = ObjectiveSettings(
        criterion="variational", prediction="epsilon", loss="epsilon", times="important_levels", variance="learned"
    )
    return Recipe(
        name="ddpm_vlb",
        noise=NoiseSettings(schedule="ddpm"),
        objective=objective,
        sampler=SamplerSettings(name="ddpm"),
    )


def ncsn() -> Recipe:
    """Song & Ermon 2019, arXiv:1907.05600: ten geometric levels, annealed Langevin with 100 moves at each.

    Their step ε = 2·10⁻⁵ σ²/σ_min² with σ_min = 0.01 is 0.2 σ².
    """
    return Recipe(
        name="ncsn",
        noise=NoiseSettings(schedule="ncsn", levels=10),
        objective=_DENOISING_AT_LEVELS,
        training=TrainingSettings(average=0),
        sampler=SamplerSettings(name="langevin", moves=100, size=0.2),
    )


def ncsnv2() -> Recipe:
    """Song & Ermon 2020, arXiv:2006.09011: NCSN with all five techniques, each a field that can be set otherwise.

    σ_max from the largest distance of two rows, the number of levels from the dimension, a network that is not told the
    level (unless rows are too short to show it), Langevin's step size from the ratio of levels, averaged weights.
    """
    return Recipe(
        name="ncsnv2",
        noise=NoiseSettings(schedule="ncsn"),
        objective=_DENOISING_AT_LEVELS,
        network=NetworkSettings(noise_conditional="auto"),
        sampler=SamplerSettings(name="langevin", moves=5),
    )


def vp() -> Recipe:
    """Song et al. 2021, arXiv:2011.13456: variance preserving, ε-prediction at any time."""
    return _continuous("vp")


def subvp() -> Recipe:
    """Song et al. 2021, Eq. 29, arXiv:2011.13456: sub-variance preserving, ε-prediction at any time."""
    return _continuous("subvp")


def flow() -> Recipe:
    """Lipman et al. 2022, arXiv:2210.02747: the velocity of the straight path."""
    return Recipe(
        name="flow",
        noise=NoiseSettings(schedule="flow"),
        objective=ObjectiveSettings(prediction="velocity", loss="velocity", times="uniform"),
    )


def energy() -> Recipe:
    """`auto` with a score that is the gradient of an energy: an unnormalised density at every level."""
    return Recipe(name="energy", network=NetworkSettings(energy=True))


def sliced() -> Recipe:
    """Sliced score matching at every level (Song et al. 2019, arXiv:1905.07088), otherwise as `auto`.

    Its loss is in ε, where the noise of its gradient does not grow with σ as it does in F.
    """
    return Recipe(name="sliced", objective=ObjectiveSettings(criterion="sliced", loss="epsilon"))


def implicit() -> Recipe:
    """Implicit score matching at every level (Hyvärinen 2005), otherwise as `auto`.

    The network is an mlp of two hidden layers, whose trace is known in closed form, unless another is asked for; the
    loss is in ε, as that of `sliced`.
    """
    return Recipe(name="implicit", objective=ObjectiveSettings(criterion="implicit", loss="epsilon"))


_DENOISING_AT_LEVELS = ObjectiveSettings(prediction="epsilon", loss="score", weight="sigma_squared", times="levels")


def _continuous(schedule: Literal["vp", "subvp"]) -> Recipe:
    objective = ObjectiveSettings(prediction="epsilon", loss="epsilon", times="uniform")
    return Recipe(name=schedule, noise=NoiseSettings(schedule=schedule), objective=objective)


PRESETS = {
    preset.__name__: preset
    for preset in (auto, edm, ddpm, ddpm_vlb, ncsn, ncsnv2, vp, subvp, flow, energy, sliced, implicit)
}


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    return values
