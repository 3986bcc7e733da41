"""What each objective learns in the same time: its score against the truth, on Gaussian mixtures known in closed form.

Every objective trains one network (3 hidden layers of 128) with one optimiser (Adam, its rate falling to zero, averaged
weights) for the same seconds of processor time on one thread. Its learning rate is the best of three in runs of a tenth
of that length. Explicit matching, whose true score is taken to cost nothing, is what the others can reach. Printed is
the relative error of the learned score, at each noise level and in all,

    √(E‖s_θ − s*‖²/E‖s*‖²)   at σ,   x ~ p_σ          √(Σ_σ σ² E‖s_θ − s*‖² / Σ_σ σ² E‖s*‖²)   in all

over 24 levels evenly in log σ across the range measured from the data. Then three findings of the literature:

    1  denoising at one σ: the variance of its gradient explodes as σ → 0, its bias grows with σ (Vincent 2011)
    2  without noise a score is not learned where data are rare, and the weights of modes are not seen; many levels of
       noise mend both (Song & Ermon 2019, §3.2, arXiv:1907.05600, and their example)
    3  sliced matching learns what implicit matching learns, at a fraction of the cost (Song et al. 2019,
       arXiv:1905.07088)

    python benchmarks/objectives_quality.py [--seconds 20] [--json FILE] [--markdown FILE] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _objectives_problems import LEVELS, TEST_ROWS, Problem, binned, far_modes, langevin, mixture, relative
from _objectives_report import draw, markdown, verdicts
from torch import Tensor, nn

from scorefield.betas import linear_betas_between
from scorefield.discrete import Discrete
from scorefield.errors import TrainingError
from scorefield.exact import GaussianMixture
from scorefield.model import DataScore, EnergyDenoiser, NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import VP, Flow, Schedule
from scorefield.objectives import presets
from scorefield.objectives.contrastive import ContrastiveDivergence
from scorefield.objectives.criteria import Criterion, Explicit
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import LogUniform
from scorefield.objectives.weights import one
from scorefield.parametrization import EPSILON, VELOCITY, Parametrization, V, edm_f
from scorefield.randomness import Noise, Stream
from scorefield.samplers.grids import karras
from scorefield.samplers.langevin import Langevin
from scorefield.samplers.loop import sample
from scorefield.samplers.predictors import Heun
from scorefield.training.loop import Step, Trainer
from scorefield.training.memory import keep_freed_memory
from scorefield.training.rows import Rows
from scorefield.training.settings import TrainingSettings

BATCH, WIDTH, DEPTH = 512, 128, 3
RATES = (5e-3, 2e-3, 5e-4)
TRIAL = 0.1  # share of the time that each rate is tried for
SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # of denoising at one σ, in units of σ_data


# -- learners ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learner:
    """An objective and the model that it trains."""

    model: Callable[[], Any]
    objective: ScoreMatching


class OfDataAlone(nn.Module):
    """A network of x alone."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.mlp = MLP((dimension,), WIDTH, DEPTH, noise_frequencies=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x, x.new_zeros(1))


def at_all_levels(problem: Problem) -> dict[str, Learner]:
    """Objectives over many noise levels, each with its recipe's schedule and notation."""
    low, high, sigma_data = problem.low, problem.high, problem.sigma_data
    f, steps = edm_f(sigma_data), problem.range.levels
    edm = problem.schedule
    vp = VP(t_min=float(VP().time_of_sigma(low)), t_max=float(VP().time_of_sigma(high)))
    flow = Flow(t_min=float(Flow().time_of_sigma(low)), t_max=float(Flow().time_of_sigma(high)))
    betas = Discrete(betas=linear_betas_between(low, high, 1000))
    levels = Discrete(sigmas=tuple(float(sigma) for sigma in np.geomspace(low, high, steps)))

    def network(schedule: Schedule, notation: Parametrization, outputs: int = 1) -> Callable[[], NetworkDenoiser]:
        mlp = partial(MLP, (problem.dimension,), WIDTH, DEPTH, outputs=outputs)
        return lambda: NetworkDenoiser(mlp(), schedule, notation, sigma_data, learned_variance=outputs == 2)

    def energy() -> EnergyDenoiser:
        return EnergyDenoiser(MLP((problem.dimension,), WIDTH, DEPTH), edm, f, sigma_data)

    def everywhere(criterion: Criterion) -> ScoreMatching:
        return ScoreMatching(LogUniform(), criterion, one)

    # The published law is of log σ where σ_data = ½.
    published = presets.edm(sigma_data, -1.2 + math.log(2 * sigma_data), 1.2)
    return {
        "ncsn": Learner(network(levels, EPSILON), presets.ncsn()),
        "ddpm_simple": Learner(network(betas, EPSILON), presets.ddpm_simple()),
        "ddpm_vlb": Learner(network(betas, EPSILON), presets.ddpm_vlb()),
        "ddpm_vlb_importance": Learner(network(betas, EPSILON), presets.ddpm_vlb_importance(sigma_data)),
        "ddpm_hybrid": Learner(network(betas, EPSILON, outputs=2), presets.ddpm_hybrid()),
        "vp_simple": Learner(network(vp, EPSILON), presets.vp_simple()),
        "v_prediction": Learner(network(vp, V), presets.v_prediction()),
        "continuous_bound": Learner(network(vp, EPSILON), presets.continuous_bound()),
        "maximum_likelihood": Learner(network(vp, EPSILON), presets.maximum_likelihood()),
        "maximum_likelihood_importance": Learner(network(vp, f), presets.maximum_likelihood_importance(sigma_data)),
        "edm": Learner(network(edm, f), published),
        "log_uniform": Learner(network(edm, f), presets.log_uniform(sigma_data)),
        "flow_matching": Learner(network(flow, VELOCITY), presets.flow_matching()),
        "flow_matching_logit_normal": Learner(network(flow, VELOCITY), presets.flow_matching_logit_normal()),
        "explicit": Learner(network(edm, f), everywhere(Explicit(problem.truth, f))),
        "implicit": Learner(network(edm, f), everywhere(Implicit(EPSILON))),
        "sliced": Learner(network(edm, f), everywhere(Sliced(EPSILON, reduced_variance=False))),
        "sliced_reduced_variance": Learner(network(edm, f), everywhere(Sliced(EPSILON))),
        "finite_difference": Learner(network(edm, f), everywhere(FiniteDifference(EPSILON))),
        "energy, edm": Learner(energy, published),
        "energy, contrastive divergence": Learner(energy, everywhere(ContrastiveDivergence(Langevin(10, 0.2)))),
    }


def without_noise(problem: Problem) -> dict[str, Learner]:
    """Objectives for the score of the data themselves."""
    each = {
        "explicit": presets.explicit(problem.truth),
        "implicit": presets.implicit(),
        "sliced": presets.sliced(),
        "sliced_reduced_variance": presets.sliced_reduced_variance(),
        "finite_difference": presets.finite_difference(step=0.03),
    }
    return {name: of_data(problem, objective) for name, objective in each.items()}


def of_data(problem: Problem, objective: ScoreMatching) -> Learner:
    """A network of x alone with an objective."""
    return Learner(lambda: DataScore(OfDataAlone(problem.dimension)), objective)


# -- training ---------------------------------------------------------------------------------------------------------


def trainer(learner: Learner, data: Tensor, rate: float, steps: int) -> Trainer:
    """The library's training loop, which draws the same numbers each time."""
    torch.manual_seed(0)
    rows = Rows(np.arange(len(data)), lambda numbers, _: (data.index_select(0, torch.from_numpy(numbers)), None))
    settings = TrainingSettings(batch=BATCH, steps=steps, optimiser="adam", learning_rate=rate, precision="float32")
    return Trainer(learner.model(), learner.objective, rows, Rows(np.arange(0), rows.take), settings, seed=0)


def train(learner: Learner, data: Tensor, rate: float, steps: int) -> Any:
    """The averaged model after these steps."""
    training = trainer(learner, data, rate, steps)
    for _ in training:
        pass
    return training.best()


def step_costs(learners: dict[str, Learner], data: Tensor, rounds: int = 7) -> dict[str, float]:
    """Seconds of processor time of one step of each, taking turns: a busy machine slows them alike."""
    steps = {name: iter(trainer(learner, data, RATES[-1], 10**9)) for name, learner in learners.items()}
    repeats, times = {}, {}
    for name, each in steps.items():
        next(each)  # what the first call alone costs does not count
        repeats[name], times[name] = max(1, round(0.03 / seconds_of(each, 2))), []
    for _ in range(rounds):
        for name, each in steps.items():
            times[name].append(seconds_of(each, repeats[name]))
    return {name: statistics.median(each) for name, each in times.items()}


def seconds_of(steps: Iterator[Step], count: int) -> float:
    """Of processor time, a step."""
    start = time.process_time()
    for _ in range(count):
        next(steps)
    return (time.process_time() - start) / count


def learn(
    learner: Learner, data: Tensor, seconds: float, cost: float, error: Callable[[Any], float]
) -> tuple[Any, dict[str, Any]]:
    """A model trained for these seconds with the best of RATES, and how it was trained."""
    short, steps = (max(2, round(seconds * share / cost)) for share in (TRIAL, 1))
    tried = {rate: attempt(learner, data, rate, short, error)[1] for rate in RATES}
    best = min(tried, key=lambda rate: tried[rate])
    model, final = attempt(learner, data, best, steps, error)
    # Of a stiff objective, the best rate of a short run may diverge in a long one.
    while not math.isfinite(final) and best != RATES[-1]:
        best = RATES[RATES.index(best) + 1]
        model, final = attempt(learner, data, best, steps, error)
    return model, {"steps": steps, "rate": best, "ms": 1e3 * cost}


def attempt(
    learner: Learner, data: Tensor, rate: float, steps: int, error: Callable[[Any], float]
) -> tuple[Any, float]:
    """A trained model and its error, or no model and ∞ where training breaks down."""
    try:
        model = train(learner, data, rate, steps)
    except TrainingError:
        return None, math.inf
    found = error(model)
    return model, found if math.isfinite(found) else math.inf


# -- the parts of the benchmark ---------------------------------------------------------------------------------------


def levels_part(problem: Problem, seconds: float, only: list[str] | None) -> dict[str, Any]:
    """Every objective over many levels."""
    results: dict[str, Any] = {"sigmas": problem.sigmas, "objectives": {}}
    entries = results["objectives"]
    learners = {name: learner for name, learner in at_all_levels(problem).items() if not only or name in only}
    costs = step_costs(learners, problem.data)
    if "explicit" in costs:
        costs["explicit"] = costs.get("log_uniform", costs["explicit"])  # a true score costs nothing here
    for name, learner in learners.items():
        model, facts = learn(learner, problem.data, seconds, costs[name], lambda model: problem.errors(model)[0])
        total, each = (math.inf, []) if model is None else problem.errors(model)
        entries[name] = facts | {"error": total, "levels": each}
        show(name, entries[name])
    if problem.dimension == 10 and {"implicit", "sliced_reduced_variance"} <= set(entries):
        name, facts = "implicit, steps of sliced", entries["implicit"]
        facts = facts | {"steps": entries["sliced_reduced_variance"]["steps"]}
        total, each = problem.errors(train(learners["implicit"], problem.data, facts["rate"], facts["steps"]))
        entries[name] = facts | {"error": total, "levels": each}
        show(name, entries[name])
    return results


def show(name: str, entry: dict[str, Any]) -> None:
    """A line of the table."""
    levels = ", ".join(f"{value:.1%}" for value in entry["levels"][:: LEVELS // 6])
    facts = f"{entry['steps']:6} steps of {entry['ms']:6.2f} ms, rate {entry['rate']:.0e}"
    print(f"  {name:32}{entry['error']:8.2%}   {facts}   by σ: {levels}", flush=True)


def one_sigma_part(problem: Problem, seconds: float) -> dict[str, Any]:
    """Models of x alone: without noise, and denoising at one σ, judged by the data's score and by that of the level."""
    results: dict[str, Any] = {"noiseless": {}, "denoising": [], "gradient": []}
    noiseless = without_noise(problem)
    sigmas = [problem.sigma_data * share for share in SIGMAS]
    one_level = noiseless | {"denoising": of_data(problem, presets.denoising(sigmas[0]))}
    costs = step_costs(one_level, problem.data)
    costs["explicit"], ceiling = costs["denoising"], None
    for name, learner in noiseless.items():
        model, facts = learn(learner, problem.data, seconds, costs[name], lambda model: problem.error_at(model, 0.0))
        ceiling = model if name == "explicit" else ceiling
        error = math.inf if model is None else problem.error_at(model, 0.0)
        results["noiseless"][name] = facts | {"error": error}
        print(f"  without noise, {name:28}{error:8.2%}   {facts['steps']} steps, rate {facts['rate']:.0e}", flush=True)
    x = problem.truth.sample(2 * TEST_ROWS, 77, 0.0)
    for sigma in sigmas:
        learner = of_data(problem, presets.denoising(sigma))
        error_at = partial(problem.error_at, sigma=sigma)
        model, facts = learn(learner, problem.data, seconds, costs["denoising"], error_at)
        entry = facts | {
            "sigma": sigma,
            "against_data": problem.error_at(model, 0.0),
            "against_noised": problem.error_at(model, sigma),
            "bias": relative(problem.truth.score(x, sigma), problem.truth.score(x, 0.0)),
            "gradient_deviation": gradient_deviation(ceiling, learner.objective, problem.data),
        }
        results["denoising"].append(entry)
        print(
            f"  denoising at σ = {sigma:6.3f}: error {entry['against_noised']:8.2%} of its level's score, "
            f"{entry['against_data']:8.2%} of the data's, of which bias {entry['bias']:7.2%}; "
            f"gradient {entry['gradient_deviation']:.3g}, rate {facts['rate']:.0e}",
            flush=True,
        )
    return results


def gradient_deviation(model: Any, objective: ScoreMatching, data: Tensor, batches: int = 64) -> float:
    """Standard deviation of the gradient of a batch of 256, all weights together, at one model of the data."""
    stream, parameters, gradients = Stream(0, "gradient deviation"), list(model.requires_grad_(True).parameters()), []
    for batch in range(batches):
        x0 = data[batch * 256 : (batch + 1) * 256]
        loss = objective(model, x0, Noise(stream, range(256), batch), torch.full((256,), 0.5)).mean()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return float(torch.stack(gradients).var(0).sum().sqrt())


def rare_part(seconds: float) -> dict[str, Any]:
    """Far modes: the error where data are rare, and the share of draws in the heavier mode."""
    problem = Problem(far_modes())
    truth = problem.truth
    learners = {
        "plain": without_noise(problem)["sliced_reduced_variance"],
        "many": at_all_levels(problem)["log_uniform"],
    }
    costs = step_costs(learners, problem.data)
    plain, _ = learn(learners["plain"], problem.data, seconds, costs["plain"], partial(problem.error_at, sigma=0.0))
    many, _ = learn(learners["many"], problem.data, seconds, costs["many"], lambda model: problem.errors(model)[0])
    box = 16 * Stream(0, "box").uniform(40_000, (2,)) - 8
    density = truth.log_prob(box) / math.log(10)
    density = density - density.max()
    edges = [float(edge) for edge in range(-14, 1)]
    curves = {
        "without noise, sliced": binned(
            plain.score(box.float(), torch.zeros(())), truth.score(box, 0.0), density, edges
        )
    }
    for sigma in (problem.low, 1.0, 3.0, 10.0):
        learned = many.score(box.float(), sigma)
        curves[f"many levels, at σ = {sigma:.2g}"] = binned(learned, truth.score(box, sigma), density, edges)
    rows = 4000
    start = (16 * Stream(1, "box").uniform(rows, (2,)) - 8).float()
    # The walk begins about the data's mean, which codecs bring to zero.
    noise = problem.data.mean(0) + problem.high * Stream(2, "box").normal(rows, (2,))
    grid = karras(problem.schedule, 32)
    draws = {
        "true score, Langevin": langevin(lambda x: truth.score(x, 0.0), start),
        "without noise, Langevin": langevin(lambda x: plain.score(x, torch.zeros(())), start),
        "many levels, Heun": sample(many, rows, (2,), grid, Heun(), seed=0, start=noise),
    }
    x = truth.sample(rows, 5)
    equal = GaussianMixture(torch.ones(2), truth.means, torch.eye(2).expand(2, 2, 2), problem.schedule)
    results: dict[str, Any] = {"edges": edges, "curves": curves, "shares": {}, "draws": {}}
    for name, drawn in draws.items():
        near = drawn[(drawn.abs() < 12).all(1)]
        share = float((near.sum(1) > 0).double().mean())
        results["shares"][name] = {"share": share, "std_error": math.sqrt(share * (1 - share) / rows)}
        results["shares"][name]["lost"] = 1 - len(near) / rows
        results["draws"][name] = [[round(float(v), 3) for v in row] for row in drawn[:1500]]
    results["wrong_weights"] = relative(equal.score(x, 0.0), truth.score(x, 0.0))
    return results


def main() -> None:
    """Print the tables and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of processor time for each objective")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--only", nargs="+", help="of the objectives over many levels, these alone")
    parser.add_argument("--json", type=Path, help="write all numbers here, part by part")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--pictures", type=Path, help="write the pictures into this folder")
    parser.add_argument("--redraw", action="store_true", help="train nothing, read the numbers from --json")
    options = parser.parse_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.redraw else run(options)
    print("\n".join(verdicts(results)))
    if options.markdown:
        options.markdown.write_text(markdown(results), encoding="utf-8")
    if options.pictures:
        draw(results, options.pictures)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train everything."""
    keep_freed_memory()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, 1 thread, {options.seconds:g} s of processor time for each objective", flush=True
    )
    results: dict[str, Any] = {"seconds": options.seconds, "levels": {}, "one_sigma": {}, "rare": {}}

    def keep() -> None:
        if options.json:
            options.json.write_text(json.dumps(results), encoding="utf-8")

    for dimension in options.dimensions:
        problem = Problem(mixture(dimension))
        print(f"\nD = {dimension}, σ from {problem.low:.3g} to {problem.high:.3g}, σ_data {problem.sigma_data:.3g}")
        results["levels"][str(dimension)] = levels_part(problem, options.seconds, options.only)
        keep()
    for dimension in options.dimensions:
        print(f"\nD = {dimension}, one level")
        results["one_sigma"][str(dimension)] = one_sigma_part(Problem(mixture(dimension)), options.seconds / 2)
        keep()
    results["rare"] = rare_part(2 * options.seconds)
    keep()
    return results


if __name__ == "__main__":
    main()
