"""From a recipe and the data's measures to a complete recipe, with a sentence for each choice that was made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scorefield.errors import OptionError
from scorefield.moments import ALL_AXES
from scorefield.noise import VP, Cosine, Schedule, SubVP
from scorefield.noise_range import NoiseRange
from scorefield.recipes import (
    BOUNDS,
    LEVELLED,
    NetworkSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    SamplerSettings,
)
from scorefield.samplers.choice import TOLERANCE
from scorefield.samplers.presets import MOVES, SAMPLERS
from scorefield.sizes import image_size, vector_size
from scorefield.training.device import pick_precision
from scorefield.training.settings import TrainingSettings

# Mean and standard deviation of log σ/(α σ_data), chosen by measurement: of images by the look and the
# Fréchet distance of samples after minutes of training (`edm` has Karras et al.'s own), of points
# and tables by the least score error on a mixture known in closed form.
_IMAGE_TIMES = (0.5, 1.2)
_VECTOR_TIMES = (-1.8, 1.4)
# Of tables with names, mean and deviation of log σ/α itself: vertices are two apart whatever σ_data is, and names are
# decided where noise is of that order.
_NAMES_TIMES = (-0.6, 1.2)


# Reference batches cut the score error by a quarter on the plane, a tenth in ten dimensions and a fiftieth in fifty,
# for a tenth of the time of an mlp's step; beside a unet's they cost nothing (benchmarks/variance_reduction.py).
REFERENCE_PAYS = 16  # numbers in a row up to which an mlp has them
LARGEST_REFERENCE = 256
# Of fewer rows of a table a tenth says little of when to stop, and is missed: 143 rows came out as a blur.
FEW_ROWS = 1000
# Of a short table the held-out loss is least long before rows drawn are like those of the data: with 1280 rows the
# distance to held-out rows was 0.67 where it was least and 0.59 at the end, and rows at the end were no nearer to those
# learnt from than held-out ones are (benchmarks/tables.py).
SHORT_TABLE = 10_000
LEAST_PAIRED = 4  # rows of a batch, of which a quarter get a partner
MOST_PASSES = 64  # backward passes in one step of implicit score matching: about 80 steps of denoising

# A row of D numbers shows the square of its noise to a share √(2/D) at best: 18 % of 64 numbers. On the plane a network
# that is not told the level had a score error of 44 %, one that is told 6 %.
NUMBERS_THAT_SHOW_NOISE = 64

# Schedules whose noise ends before σ/α = ∞.
_REACH: dict[str, Schedule] = {"vp": VP(), "subvp": SubVP(), "cosine": Cosine()}


@dataclass(frozen=True)
class DataFacts:
    """What a recipe is completed from.

    Args:
        shape: of one encoded row.
        rows: to train on.
        noise: the measured noise range.
        device: to train on.
        steps: of the grids that the numbers of a row lie on, one for all or one for each; None for continuous data.
        names: whether some numbers stand about vertices, as names do.
    """

    shape: tuple[int, ...]
    rows: int
    noise: NoiseRange
    device: torch.device
    steps: tuple[float, ...] | None = None
    names: bool = False

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
    _check_used(recipe.objective)
    noise = _noise(recipe.noise, facts, said)
    objective = _objective(recipe.objective, noise, facts, said)
    network = _network(recipe.network, objective, facts, said)
    training = _training(recipe.training, network, facts, said)
    pays = network.kind == "unet" or facts.numbers <= REFERENCE_PAYS
    objective, training = _variance(objective, training, pays, said)
    sampler = _sampler(recipe.sampler, noise, facts, said)
    update = {"noise": noise, "objective": objective, "network": network, "training": training, "sampler": sampler}
    return recipe.model_copy(update=update), said


# What only some criteria read; set for another, it would do nothing.
_READ_BY: dict[str, tuple[str, ...]] = {
    "reference": ("denoising",),
    "probes": ("sliced", "finite_difference"),
    "reduced_variance": ("sliced",),
    "difference": ("finite_difference",),
    "decoder": BOUNDS,
    "bin_width": BOUNDS,
    "moves": ("contrastive",),
}


def _check_used(given: ObjectiveSettings) -> None:
    """Refuse a field that was set and that the criterion does not read.

    Raises:
        OptionError: with the field and the criteria that read it.
    """
    unset = ObjectiveSettings()
    for name, criteria in _READ_BY.items():
        value = getattr(given, name)
        idle = value == getattr(unset, name) or (name == "reference" and value == 1)
        if given.criterion not in criteria and not idle:
            raise OptionError(
                f"objective.{name}={value} is of objective.criterion={' or '.join(criteria)}, not of {given.criterion}"
            )


def _noise(given: NoiseSettings, facts: DataFacts, said: list[str]) -> NoiseSettings:
    measured = facts.noise
    reach = _REACH.get(given.schedule)
    end = math.inf if reach is None else float(1 / reach.at(reach.t_max).snr.sqrt())
    noise = given.model_copy(
        update={
            "sigma_min": given.sigma_min or measured.sigma_min,
            "sigma_max": given.sigma_max or min(measured.sigma_max, end),
            "sigma_data": given.sigma_data or measured.sigma_data,
        }
    )
    levels = given.levels or {"ddpm": _most_levels(noise), "ncsn": measured.levels}.get(given.schedule)
    noise = noise.model_copy(update={"levels": levels})
    if given.sigma_max is None and measured.sigma_max > end:
        said.append(
            f"noise: {given.schedule} ends at σ/α = {end:.4g}, below the measured σ_max {measured.sigma_max:.4g}"
        )
    text = (
        f"noise: {noise.schedule}, σ from {noise.sigma_min:.4g} to {noise.sigma_max:.4g}, σ_data {noise.sigma_data:.4g}"
    )
    said.append(text + (f", {levels} levels" if levels else ""))
    return noise


def _most_levels(noise: NoiseSettings) -> int:
    """DDPM's 1000 levels, or as many as lead from σ_min to σ_max with no β below the first."""
    low, high = noise.sigma_min or 0.0, noise.sigma_max or math.inf
    return max(2, min(1000, int(math.log1p(high**2) / math.log1p(low**2)))) if 0 < low < high < math.inf else 1000


def _objective(given: ObjectiveSettings, noise: NoiseSettings, facts: DataFacts, said: list[str]) -> ObjectiveSettings:
    times = given.times or "log_normal"
    mean, std = given.times_mean, given.times_std
    if times == "log_normal":
        usual_mean, usual_std = _IMAGE_TIMES if facts.is_image else _VECTOR_TIMES
        if facts.names:
            usual_mean, usual_std = _NAMES_TIMES[0] - math.log(noise.sigma_data or 1.0), _NAMES_TIMES[1]
        mean = usual_mean if mean is None else mean
        std = usual_std if std is None else std
    objective = given.model_copy(update={"times": times, "times_mean": mean, "times_std": std})
    law = f"{times} ({mean:.3g}, {std:.3g})" if mean is not None and std is not None else times
    criterion = given.criterion.replace("_", "-")
    text = f"objective: {criterion}, predicts {given.prediction}, squared in {given.loss}, noise {law}"
    if given.criterion in BOUNDS:
        objective = _bound(objective, noise, facts)
        width = objective.bin_width
        last = "Gaussian" if width is None else f"discretised, bins of {_span(width)}"
        text = f"objective: {criterion}, predicts {given.prediction}, variance {objective.variance}, decoder {last}"
    said.append(text)
    return objective


def _span(width: float | tuple[float, ...]) -> str:
    return f"{min(width):.4g} to {max(width):.4g}" if isinstance(width, tuple) else f"{width:.4g}"


def _bound(given: ObjectiveSettings, noise: NoiseSettings, facts: DataFacts) -> ObjectiveSettings:
    """The choices that the variational bound asks for.

    Raises:
        OptionError: for a schedule without levels, and a discretised decoder of data that are not integers.
    """
    if noise.schedule not in LEVELLED:
        raise OptionError(
            f"objective.criterion={given.criterion} needs noise.schedule ddpm or ncsn, which have levels, "
            f"not {noise.schedule}"
        )
    width = given.bin_width
    if width is None and facts.steps:
        width = facts.steps[0] if len(set(facts.steps)) == 1 else facts.steps
    if isinstance(width, tuple) and facts.shape != (len(width),):
        raise OptionError(f"objective.bin_width has {len(width)} entries, a row has the shape {facts.shape}")
    if given.decoder == "discretised" and width is None:
        raise OptionError(
            "objective.decoder=discretised is for integers, and these data are continuous: use gaussian, "
            "or set objective.bin_width"
        )
    if given.decoder == "gaussian" and given.bin_width is not None:
        raise OptionError("objective.bin_width is of the discretised decoder, objective.decoder=gaussian has no bins")
    decoder = given.decoder
    if decoder == "auto":
        decoder = "gaussian" if width is None else "discretised"
    if decoder == "gaussian":
        width = None
    variance = "learned" if given.criterion == "hybrid" else given.variance
    return given.model_copy(update={"decoder": decoder, "bin_width": width, "variance": variance})


def _network(
    given: NetworkSettings, objective: ObjectiveSettings, facts: DataFacts, said: list[str]
) -> NetworkSettings:
    implicit = objective.criterion == "implicit"
    if given.noise_conditional == "auto":
        given = given.model_copy(update={"noise_conditional": facts.numbers < NUMBERS_THAT_SHOW_NOISE})
    kind = given.kind or ("unet" if facts.is_image and not implicit else "mlp")
    usual_depth = 2 if implicit and not given.energy else 4
    if kind == "mlp":
        width, depth = given.width or vector_size(facts.rows, facts.names).width, given.depth or usual_depth
        network = given.model_copy(update={"kind": kind, "width": width, "depth": depth})
        if given.whitened is None:
            told = given.noise_conditional is True and not given.energy and objective.criterion == "denoising"
            network = network.model_copy(update={"whitened": told and facts.numbers <= ALL_AXES})
        said.append(f"network: mlp, {depth} hidden layers of {width}" + _remarks(network))
    elif kind == "unet":
        if len(facts.shape) != 3:
            raise OptionError(f"network.kind=unet needs rows of shape (C, H, W), these have {facts.shape}: use mlp")
        chosen = {name: value for name, value in _unet(facts).items() if getattr(given, name) is None}
        network = given.model_copy(update={**chosen, "kind": kind})
        said.append(
            f"network: unet, channels {network.channels}, blocks {network.blocks}, attention {network.attention}, "
            f"patch {network.patch}" + _remarks(given)
        )
    else:
        network = given.model_copy(update={"kind": kind})
    closed = kind == "mlp" and (network.depth or 0) <= 2 and not given.energy
    if implicit and not closed and facts.numbers > MOST_PASSES:
        other = "" if given.energy else ", or network.kind=mlp with network.depth 1 or 2, whose trace is known"
        raise OptionError(
            f"implicit score matching would take {facts.numbers} backward passes a step here, one for each number of a "
            f"row, and more than {MOST_PASSES} are refused: use --recipe sliced{other}"
        )
    return network


def _remarks(given: NetworkSettings) -> str:
    """What is unusual about a network, for its sentence."""
    told = "" if given.noise_conditional else ", not told the noise level (NCSNv2's technique 3)"
    return told + (", as the potential of an energy" if given.energy else "")


def _unet(facts: DataFacts) -> dict[str, tuple[int, ...] | tuple[bool, ...] | int]:
    side = max(facts.shape[1:])
    if side <= 12:
        return {"channels": (64, 128), "blocks": (1, 1), "attention": (False, True), "patch": 1}
    if side <= 40:
        return {"channels": (32, 64, 128), "blocks": (1, 1, 2), "attention": (False, False, True), "patch": 1}
    return {"channels": (64, 128, 128), "blocks": (1, 1, 2), "attention": (False, False, True), "patch": 2}


def _training(given: TrainingSettings, network: NetworkSettings, facts: DataFacts, said: list[str]) -> TrainingSettings:
    size = image_size(facts.numbers) if network.kind == "unet" else vector_size(facts.rows, facts.names)
    batch = min(given.batch or size.batch, max(1, facts.rows))
    few = facts.names and facts.rows < FEW_ROWS
    held_out = given.held_out if given.held_out is not None else 0.0 if few else 0.1
    patience = given.patience if given.patience is not None else 0 if facts.names and facts.rows < SHORT_TABLE else 5
    optimiser = given.optimiser or size.optimiser
    learning_rate = given.learning_rate or (1e-3 if optimiser != size.optimiser else size.learning_rate)
    steps, budget = given.steps, given.budget
    if steps is None and budget is None:
        steps, budget = size.steps, size.budget
    precision, reason = given.precision, "as asked"
    if precision == "auto":
        picked, reason = pick_precision(facts.device)
        precision = "bfloat16" if picked == "bfloat16" else "float32"
    training = given.model_copy(
        update={
            "batch": batch,
            "held_out": held_out,
            "patience": patience,
            "optimiser": optimiser,
            "learning_rate": learning_rate,
            "steps": steps,
            "budget": budget,
            "precision": precision,
        }
    )
    until = " or ".join(text for text in (f"{steps} steps" if steps else "", f"{budget:g} s" if budget else "") if text)
    every = "" if held_out else ", on every row"
    said.append(
        f"training: batch {batch}, {optimiser} at {learning_rate:g}, at most {until}{every}, {precision} ({reason})"
    )
    return training


def _variance(
    objective: ObjectiveSettings, training: TrainingSettings, reference_pays: bool, said: list[str]
) -> tuple[ObjectiveSettings, TrainingSettings]:
    """What makes the gradient less noisy, of which denoising can have all."""
    reference, antithetic, batch = objective.reference, training.antithetic, training.batch or 1
    if antithetic == "auto":
        antithetic = objective.criterion in ("denoising", *BOUNDS) and batch >= LEAST_PAIRED
    # Both rows of a pair must not stand in one reference batch.
    most = max(1, batch // 2 if antithetic else batch)
    if reference is None:
        wanted = reference_pays and objective.criterion == "denoising"
        reference = min(LARGEST_REFERENCE, most) if wanted else 1
    if reference > most:
        halved = ", whose pairs may not stand in one reference batch" if antithetic else ""
        raise OptionError(f"objective.reference={reference}: at most {most} of a batch of {batch} rows{halved}")
    if antithetic and batch < LEAST_PAIRED:
        raise OptionError(f"training.antithetic=true needs batches of {LEAST_PAIRED} rows or more, not {batch}")
    pairs = "in pairs of ε and −ε" if antithetic else "drawn freely"
    together = f", {reference} rows a reference batch" if reference > 1 else ""
    said.append(f"variance: times stratified, little noise {pairs}{together}")
    return (
        objective.model_copy(update={"reference": reference}),
        training.model_copy(update={"antithetic": antithetic}),
    )


def _sampler(given: SamplerSettings, noise: NoiseSettings, facts: DataFacts, said: list[str]) -> SamplerSettings:
    if given.name in ("auto", "fitted", "adaptive", "adaptive_sde"):
        # An adaptive sampler takes no steps at all, which `build_sampler` says where some are given.
        if given.tolerance is None and (given.steps is None or given.name.startswith("adaptive")):
            given = given.model_copy(update={"tolerance": _usual(given.name)})
        said.append(f"sampler: {_asked(given)}")
        return given
    usual = getattr(SAMPLERS[given.name](), "steps", None) if given.name in SAMPLERS else None
    levels = {"ddpm": noise.levels, "langevin": noise.levels or facts.noise.levels}.get(given.name)
    steps = given.steps or levels or usual
    update: dict[str, int | None] = {"steps": steps}
    text = f"sampler: {given.name}, {steps} levels"
    if given.name == "langevin":
        update["moves"] = given.moves or MOVES
        size = "by NCSNv2's rule" if given.size is None else f"{given.size:g} σ²"
        text += f", {update['moves']} moves at each, step size {size}"
    said.append(text)
    return given.model_copy(update=update)


def _usual(name: str) -> float:
    """The tolerance of a sampler that chooses its own steps."""
    usual: float = getattr(SAMPLERS[name](), "tolerance", TOLERANCE) if name in SAMPLERS else TOLERANCE
    return usual


def _asked(given: SamplerSettings) -> str:
    """What a sampler that chooses its own steps is asked for."""
    if given.name.startswith("adaptive"):
        return f"{given.name}, an error of {given.tolerance:g} a step"
    if given.steps:
        return f"fitted to the model after training, for {given.steps} evaluations"
    return f"fitted to the model after training, for an error of {given.tolerance:g} of the data's deviation"
