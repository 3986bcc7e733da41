"""Claim: a step costs 0.37 to 0.55 of k-diffusion's Euler for each evaluation, and 1 % beside an image network.

The goal is half of k-diffusion's Euler and 2 %. Beside a network of 4 × 256 the loop and its step take 1.3 to 1.8 %,
and the denoiser's scalings 3 %.

First, µs a step with a network that costs next to nothing (x0 = x/2) on x of shape (16, 2), without what comes before
the first step: a bare loop of Euler's method by hand, and the samplers of k-diffusion, diffusers, azula and this
library. They take turns within each round, because the speed of a machine drifts, and each walks twice, of which the
second is timed: the first finds the processor's caches as another sampler has left them. The ratio to k-diffusion's
Euler is of one round, and the table has the median over rounds with quartiles and the least.

Second, with a real network (4 × 256 on 1000 rows of 2 numbers; the image network of 8×8 digits on 64 rows), the share
of the time that is not the network, and its two parts: the denoiser's own scaling of input and output, and the loop
with its steps. Its first row is DDIM by hand, seven operations on plain numbers, which is the least that there can be:
a network of some MB leaves nothing else in the caches, and what costs 1 µs above costs ten here.

The environment is that of `nfe_frontier.py`; where the peers are not installed, only ours are printed.

    python benchmarks/sampler_cost.py [--rounds 30] [--steps 50] [--threads 1] [--no-peers]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.build import build_model
from scorefield.model import Denoiser, NetworkDenoiser
from scorefield.moments import measure_moments
from scorefield.noise import EDM
from scorefield.noise_range import NoiseRange, measure_noise_range
from scorefield.overrides import override
from scorefield.parametrization import Estimate
from scorefield.randomness import Stream
from scorefield.recipes import auto
from scorefield.resolve import DataFacts, resolve
from scorefield.samplers import grids
from scorefield.samplers.fitted import FittedStep
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.multistep import DPMSolver2M, ExponentialAdams, UniPC
from scorefield.samplers.predictors import Ancestral, Euler, Heun
from scorefield.samplers.straight import StraightAdams

LOW, HIGH = 0.002, 80.0
SHAPE = (16, 2)
REFERENCE = "k-diffusion Euler"

# Gets everything ready and returns the walk that is timed.
Contender = Callable[[Tensor, int], Callable[[], object]]


@cache
def fitted_step(steps: int) -> Predictor:
    """A fitted solver's step, which reads all estimates before it; what the weights are does not matter to its cost.

    One for all walks, as a bundle has it.
    """
    return FittedStep(tuple((0.5, *[0.5 / (place + 1)] * (place + 1)) for place in range(steps)))


PREDICTORS: dict[str, Callable[[int], Predictor]] = {
    "DDIM": lambda steps: Ancestral(eta=0.0),
    "Euler": lambda steps: Euler(),
    "Heun": lambda steps: Heun(),
    "straight Adams 3": lambda steps: StraightAdams(3),
    "DPM++ 2M": lambda steps: DPMSolver2M(),
    "exponential Adams 3": lambda steps: ExponentialAdams(3),
    "UniPC2": lambda steps: UniPC(2),
    "fitted": fitted_step,
}


class Half(Denoiser):
    """x0 = x/2, and as much for ε: what an estimate says does not matter to its cost."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.sigma_data = EDM(LOW, HIGH), 1.0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        x0 = 0.5 * x_t
        return Estimate(x0, x0, self.schedule.at(t, like=x_t))


def sigmas(steps: int) -> Tensor:
    """Karras' levels, (steps + 1,) float64."""
    return grids.karras(EDM(LOW, HIGH), steps + 1)


# -- contenders -------------------------------------------------------------------------------------------------------


def bare(x: Tensor, steps: int) -> Callable[[], object]:
    """Euler's method in x/σ, with numbers for levels."""
    levels = sigmas(steps).tolist()

    def run() -> Tensor:
        y = x
        with torch.no_grad():
            for sigma, below in pairwise(levels):
                y = y + (below - sigma) / sigma * (y - 0.5 * y)
        return y

    return run


def ours(make: Callable[[int], Predictor]) -> Contender:
    """One of this library's predictors in its loop."""

    def prepare(x: Tensor, steps: int) -> Callable[[], object]:
        model, grid, predictor = Half(), sigmas(steps), make(steps)
        return lambda: sample(model, len(x), x.shape[1:], grid, predictor, seed=0, denoise=False, start=x)

    return prepare


def peers() -> dict[str, Contender]:
    """Samplers of k-diffusion, diffusers and azula, on the same levels."""
    import azula.denoise
    import azula.noise
    import azula.sample
    import diffusers
    from _frontier_grids import k_sampling

    def k_diffusion(name: str) -> Contender:
        def prepare(x: Tensor, steps: int) -> Callable[[], object]:
            levels = sigmas(steps).float()
            return lambda: getattr(k_sampling, name)(lambda y, sigma: 0.5 * y, x, levels, disable=True)

        return prepare

    def scheduled(make: Callable[[], Any]) -> Contender:
        def prepare(x: Tensor, steps: int) -> Callable[[], object]:
            scheduler = make()
            scheduler.set_timesteps(steps)

            def run() -> Tensor:
                y = x
                with torch.no_grad():
                    for t in scheduler.timesteps:
                        y = scheduler.scale_model_input(y, t)
                        y = scheduler.step(0.5 * y, t, y, return_dict=False)[0]
                return y

            return run

        return prepare

    class HalfOfAzula(azula.denoise.Denoiser):
        schedule = azula.noise.RectifiedSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return azula.denoise.DiracPosterior(mean=0.5 * x_t)

    def of_azula(make: Callable[..., Any], **more: Any) -> Contender:
        def prepare(x: Tensor, steps: int) -> Callable[[], object]:
            sampler = make(HalfOfAzula(), steps=steps, silent=True, **more)
            return lambda: sampler(x)

        return prepare

    return {
        REFERENCE: k_diffusion("sample_euler"),
        "k-diffusion DPM++ 2M": k_diffusion("sample_dpmpp_2m"),
        "diffusers DDIM": scheduled(lambda: diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False)),
        "diffusers EDM Euler": scheduled(diffusers.EDMEulerScheduler),
        "diffusers DPM++ 2M": scheduled(lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="sample")),
        "diffusers UniPC2": scheduled(lambda: diffusers.UniPCMultistepScheduler(prediction_type="sample")),
        "azula DDIM": of_azula(azula.sample.DDIMSampler),
        "azula Euler": of_azula(azula.sample.EulerSampler),
        "azula vAB3": of_azula(azula.sample.vABSampler, order=3),
    }


# -- a network that costs nothing -------------------------------------------------------------------------------------


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The first, the median and the third."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def steps_table(contenders: dict[str, Contender], rounds: int, steps: int) -> None:
    """Print µs a step of each."""
    x = Stream(0, "cost").normal(SHAPE[0], SHAPE[1:]) * HIGH
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 2):
        for name, prepare in contenders.items():
            prepare(x, steps)()
            run = prepare(x, steps)
            start = time.perf_counter()
            run()
            if number >= 2:  # two rounds to warm up
                taken[name].append(1e6 * (time.perf_counter() - start) / steps)
    print(f"µs a step, x of shape {SHAPE}, {steps} steps, {rounds} rounds; Heun asks the network twice a step")
    beside = "" if REFERENCE not in taken else f"   of {REFERENCE}"
    print(f"{'':>28} {'median':>8} {'quartiles':>15} {'least':>7}{beside}")
    for name, times in taken.items():
        low, middle, high = quartiles(times)
        line = f"{name:>28} {middle:>8.1f} {low:>7.1f}–{high:<7.1f} {min(times):>7.1f}"
        if REFERENCE in taken:
            a, b, c = quartiles([x / y for x, y in zip(times, taken[REFERENCE], strict=True)])
            line += f"   {b:.2f} ({a:.2f}–{c:.2f})"
        print(line, flush=True)


# -- a real network ---------------------------------------------------------------------------------------------------


class Timed:
    """Measures the seconds spent in a module, by its `forward`: a module around it would be counted with the rest."""

    def __init__(self, module: nn.Module) -> None:
        self.forward, self.seconds = module.forward, 0.0
        module.forward = self  # type: ignore[assignment]

    def __call__(self, *inputs: Any) -> Any:
        start = time.perf_counter()
        result = self.forward(*inputs)
        self.seconds += time.perf_counter() - start
        return result


def by_hand(model: NetworkDenoiser, levels: list[float], x: Tensor) -> Tensor:
    """DDIM for a model with α = 1 that predicts F (Karras et al. 2022, Table 1, arXiv:2206.00364)."""
    variance = model.sigma_data**2
    with torch.no_grad():
        for sigma, below in pairwise(levels):
            total = sigma**2 + variance
            c_noise = torch.full((1,), math.log(sigma) / 4)
            f = model.network(x / math.sqrt(total), c_noise, None)
            x0 = (x * (variance / total)).add_(f, alpha=sigma * math.sqrt(variance / total))
            x = (x * (below / sigma)).add_(x0, alpha=1 - below / sigma)
    return x


def network(name: str) -> tuple[NetworkDenoiser, int, tuple[int, ...]]:
    """A denoiser with fresh weights, its rows and their shape."""
    if name == "MLP 4 × 256":
        rows, shape, changes = 1000, (2,), ["network.width=256", "network.depth=4"]
    else:
        rows, shape, changes = 64, (1, 8, 8), []
    data = Stream(0, "data").normal(2000, shape)
    measured: NoiseRange = measure_noise_range(data)
    recipe, _ = resolve(override(auto(), changes), DataFacts(shape, 1797, measured, torch.device("cpu")))
    model = build_model(recipe, shape, 0, 0)
    assert isinstance(model, NetworkDenoiser)
    model.moments = measure_moments(data)
    return model.eval().requires_grad_(False), rows, shape


def shares_table(name: str, rounds: int, steps: int) -> None:
    """Print the share of the time that is not the network."""
    model, rows, shape = network(name)
    assert isinstance(model.schedule, EDM)
    assert model.parametrization.name == "F"
    inner, outer = Timed(model.network), Timed(model)
    x = Stream(0, "cost").normal(rows, shape) * model.schedule.t_max
    grid = grids.karras(model.schedule, steps + 1)
    predictors = {label: make(steps) for label, make in PREDICTORS.items()}
    found: dict[str, list[tuple[float, float, float, float]]] = {label: [] for label in ("by hand", *PREDICTORS)}
    for number in range(rounds + 1):
        for label, each in found.items():
            inner.seconds = outer.seconds = 0.0
            start = time.perf_counter()
            if label == "by hand":
                by_hand(model, grid.tolist(), x)
            else:
                sample(model, rows, shape, grid, predictors[label], seed=0, denoise=False, start=x)
            total = time.perf_counter() - start
            if number:
                inside, around = inner.seconds / total, max(inner.seconds, outer.seconds) / total
                each.append((1e3 * total / steps, 1 - inside, around - inside, 1 - around))
    print(f"\n{name}, {rows} rows of shape {shape}, {steps} steps, {rounds} rounds: median (quartiles)")
    print(f"{'':>28} {'ms a step':>10} {'not the network':>24} {'denoiser':>24} {'loop and step':>24}")
    for label, each in found.items():
        milliseconds = statistics.median(row[0] for row in each)
        texts = []
        for place in (1, 2, 3):
            low, middle, high = quartiles([row[place] for row in each])
            texts.append(f"{middle:.2%} ({low:.2%}–{high:.2%})")
        print(f"{label:>28} {milliseconds:>10.3f} " + " ".join(f"{text:>24}" for text in texts), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="only ours and the bare loop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    contenders: dict[str, Contender] = {"bare loop": bare}
    if not arguments.no_peers:
        try:
            contenders |= peers()
        except ModuleNotFoundError as missing:
            print(f"only ours: {missing.name} is not installed; see the first lines of nfe_frontier.py")
    contenders |= {f"ours {name}": ours(predictor) for name, predictor in PREDICTORS.items()}
    steps_table(contenders, arguments.rounds, arguments.steps)
    for name in ("MLP 4 × 256", "image network"):
        shares_table(name, max(5, arguments.rounds // 3), 18)


if __name__ == "__main__":
    main()
