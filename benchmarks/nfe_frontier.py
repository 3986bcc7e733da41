"""Claim: for a number of evaluations none of diffusers, azula and k-diffusion comes closer to the true end point.

The end point of a sampler is compared with a fine solution of the probability flow from the same noise, E[x0 given x]
at the lowest level last: root mean square distance over rows and elements, relative to the data's deviation. Problems:
mixtures known in closed form in 2 and 64 dimensions, and a trained image model (`--model RUN`, or one fitted here to
scikit-learn's digits). σ goes from 80 to 0.002, for the image model over the range that it was trained on.

Every method of a library, on every grid of its own and with either ending (`_frontier_peers.py`), walks first from a
few noises; the best of each library walk from the noises that all are judged on, of several seeds, and the table has
the best of these: theirs are chosen with the answer in sight. Methods that are fitted see other noises. Evaluations are
counted where the model is asked, and more than the budget is an error. "→0" spends the last evaluation on E[x0 given
x], "→σ" on one more step.

    python3 -m venv .peers && .peers/bin/pip install -c constraints.txt -e .
    .peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    .peers/bin/python benchmarks/nfe_frontier.py [--problems 2d 64d image] [--picture frontier.png]

Where the peers are not installed, only ours are printed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _frontier_problems import Counted, Method, Plain, Problem, Run, problems
from torch import Tensor

from scorefield.model import Denoiser
from scorefield.samplers import grids
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.multistep import DPMSolver2M, ExponentialAdams, UniPC
from scorefield.samplers.predictors import Heun

BUDGETS = (5, 8, 10, 16, 20, 32, 50)
FINALISTS = 4  # of each library, that are judged
PEERS = ("diffusers", "azula", "k-diffusion")
OURS, FITTED = "ours", "fitted"


# -- our methods ------------------------------------------------------------------------------------------------------


def fitted(problem: Problem) -> list[Method]:
    """Solvers and grids that are fitted to the model: ADD THEM HERE, each as a `_frontier_problems.Method`.

    `fit(model, noises, budget)` gets the plain denoiser, noises that are not judged, and the number of evaluations that
    its walk may take; what it asks the model is not counted. It returns run(model, x) -> end point.
    """
    return []


def unfitted() -> list[Method]:
    """Our solvers on grids that know nothing of the model."""
    solvers: dict[str, tuple[Predictor, int]] = {
        "Heun": (Heun(), 2),
        "DPM++ 2M": (DPMSolver2M(), 1),
        "UniPC2": (UniPC(2), 1),
        "UniPC3": (UniPC(3), 1),
        **{f"exponential Adams {order}": (ExponentialAdams(order), 1) for order in (1, 2, 3, 4)},
    }
    spacings: dict[str, Callable[[Denoiser, int], Tensor]] = {
        "geometric": lambda model, n: grids.geometric(model.schedule, n),
        "karras": lambda model, n: grids.karras(model.schedule, n),
        "karras ρ=3": lambda model, n: grids.karras(model.schedule, n, rho=3),
        "vp": _vp,
        "flow": _flow,
    }
    return [
        Plain(OURS, f"{name}, {grid} {ending}", _walk(predictor, spacing, ending == "→0", evaluations))
        for name, (predictor, evaluations) in solvers.items()
        for grid, spacing in spacings.items()
        for ending in ("→0", "→σ")
    ]


def _flow(model: Denoiser, n: int) -> Tensor:
    """Even in the time σ/(1 + σ) of a straight flow of the same σ/α."""
    high, low = model.schedule.t_max, model.schedule.t_min
    t = torch.linspace(high / (1 + high), low / (1 + low), n, dtype=torch.float64)
    return _between(t / (1 - t), model)


def _vp(model: Denoiser, n: int) -> Tensor:
    """Even in the time of a VP of linear β from 0.1 that goes over the same σ/α."""
    high, low = (math.log1p(sigma**2) for sigma in (model.schedule.t_max, model.schedule.t_min))
    rise = 2 * (high - 0.1)
    t = torch.linspace(1, (math.sqrt(0.01 + 2 * rise * low) - 0.1) / rise, n, dtype=torch.float64)
    return _between(torch.expm1(rise * t**2 / 2 + 0.1 * t).sqrt(), model)


def _between(sigmas: Tensor, model: Denoiser) -> Tensor:
    """The ends without their rounding."""
    sigmas[0], sigmas[-1] = model.schedule.t_max, model.schedule.t_min
    return sigmas


def _walk(
    predictor: Predictor, spacing: Callable[[Denoiser, int], Tensor], denoise: bool, evaluations: int
) -> Callable[[Denoiser, Tensor, int], Tensor]:
    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        grid = spacing(model, (budget - denoise) // evaluations + 1)
        return sample(model, len(x), x.shape[1:], grid, predictor, seed=0, denoise=denoise, start=x)

    return walk


# -- judging ----------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a method reached with a budget.

    Args:
        method: which.
        errors: for each seed.
        middles: the error of the middle row, for each seed.
        calls: evaluations that it took.
    """

    method: Method
    errors: list[float] = field(default_factory=list)
    middles: list[float] = field(default_factory=list)
    calls: int = 0

    @property
    def error(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.errors)

    def __str__(self) -> str:
        return f"{self.error:.3g} ({min(self.errors):.2g}–{max(self.errors):.2g})"


def installed_peers() -> list[Method]:
    """Every method of the three libraries, or none where one of them is missing."""
    try:
        from _frontier_peers import peers, versions
    except ModuleNotFoundError as missing:
        print(f"only ours: {missing.name} is not installed; the first lines of this file say how to have the peers")
        return []
    print(versions())
    return [*peers()]


def walk(problem: Problem, method: Method, run: Run, x: Tensor, budget: int) -> tuple[Tensor, int]:
    """The end point and the evaluations, which are at most the budget."""
    counted = Counted(problem.model, problem.dtype)
    with torch.no_grad():
        end = run(counted, x)
    if counted.calls > budget:
        raise RuntimeError(f"{method.library} {method.name} took {counted.calls} evaluations of {budget}")
    return end, counted.calls


def finalists(problem: Problem, methods: list[Method], budget: int, x: Tensor, truth: Tensor) -> list[Method]:
    """The best of each library on a few rows."""
    found: dict[str, list[tuple[float, int, Method]]] = defaultdict(list)
    for number, method in enumerate(methods):
        end, _ = walk(problem, method, method.fit(problem.model, x, budget), x, budget)
        found[method.library].append((problem.error(end, truth), number, method))
    return [method for rows in found.values() for *_, method in sorted(rows)[:FINALISTS]]


class Judge:
    """The noises of a problem and where the flow takes them."""

    def __init__(self, problem: Problem, seeds: int) -> None:
        self.problem = problem
        start = time.perf_counter()
        self.judged = [problem.noises("judged", seed, problem.rows) for seed in range(seeds)]
        self.truths = [problem.truth(x) for x in self.judged]
        self.searched = problem.noises("search", 0, problem.search_rows)
        self.searched_truth = problem.truth(self.searched)
        self.fitting = problem.noises("fitting", 0, problem.rows)
        self.halved = problem.error(problem.truth(self.searched, problem.fine_steps // 2), self.searched_truth)
        print(
            f"\n{problem.name}: rows {problem.rows} × {seeds} seeds, shape {problem.shape}, "
            f"σ {problem.model.schedule.t_max:g} to {problem.model.schedule.t_min:g}, "
            f"data deviation {problem.model.sigma_data:.3g}; halving the {problem.fine_steps} steps of the truth moves "
            f"it by {self.halved:.1g} ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        if self.halved > problem.tolerance:
            print(f"   WARNING: that is more than {problem.tolerance:g}")

    def results(self, budget: int, plain: list[Method], special: list[Method]) -> list[Result]:
        """The best of each library, best first, by the judged noises."""
        problem, results = self.problem, []
        chosen = finalists(problem, plain, budget, self.searched, self.searched_truth)
        for method in (*chosen, *special):
            result, run = Result(method), method.fit(problem.model, self.fitting, budget)
            for x, truth in zip(self.judged, self.truths, strict=True):
                end, result.calls = walk(problem, method, run, x, budget)
                result.errors.append(problem.error(end, truth))
                result.middles.append(problem.middle_error(end, truth))
            results.append(result)
        return sorted(results, key=lambda result: result.error)


def best(results: list[Result], *libraries: str) -> Result | None:
    """The first of these libraries."""
    return next((result for result in results if result.method.library in libraries), None)


def ratio(a: Result, b: Result) -> str:
    """a's error over b's, seed by seed."""
    ratios = [x / y for x, y in zip(a.errors, b.errors, strict=True)]
    return f"{statistics.fmean(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def table(problem: Problem, found: dict[int, list[Result]]) -> None:
    """Print what each library reached, and ours beside the best of theirs."""
    for budget, results in found.items():
        theirs = best(results, *PEERS)
        print(f"\n{problem.name}, {budget} evaluations: error (over seeds), of the middle row, ratio to the best peer")
        for library in (*PEERS, OURS, FITTED):
            result = best(results, library)
            if result is None:
                continue
            used = "" if result.calls == budget else f", {result.calls} evaluations"
            beside = "" if theirs is None else f" {ratio(result, theirs):>18}"
            middle = f"{statistics.fmean(result.middles):.2g}"
            print(f"   {library:>12} {result!s:>24} {middle:>8}{beside}  {result.method.name}{used}")
    print(f"\n{problem.name}: error (best peer | ours | ours fitted), ratios to the best peer over seeds")
    for budget, results in found.items():
        theirs, ours, fit = best(results, *PEERS), best(results, OURS), best(results, FITTED)
        line = f"{budget:>5}"
        if theirs is not None:
            line += f"  {theirs.error:8.3g}  {theirs.method.library} {theirs.method.name}"
        for result in (ours, fit):
            if result is not None:
                line += f"  | {result.error:8.3g}  {'' if theirs is None else ratio(result, theirs)}"
                line += f"  {result.method.name}"
        print(line, flush=True)


def picture(path: Path, found: dict[str, dict[int, list[Result]]]) -> None:
    """Error against evaluations, a panel for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False, layout="constrained")
    for axis, (name, by_budget) in zip(axes[0], found.items(), strict=True):
        for library in (*PEERS, OURS, FITTED):
            line = {budget: best(results, library) for budget, results in by_budget.items()}
            kept = {budget: result for budget, result in line.items() if result is not None}
            if kept:
                bold = library in (OURS, FITTED)
                errors = [result.error for result in kept.values()]
                axis.plot(list(kept), errors, "o-" if bold else "o--", label=library, linewidth=2 if bold else 1)
        axis.set(xscale="log", yscale="log", title=name, xlabel="network evaluations", ylabel="error of the end point")
        axis.set_xticks(list(by_budget), labels=[str(budget) for budget in by_budget])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=("2d", "64d", "image"), default=["2d", "64d", "image"])
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="judged for each seed; 1024 by default, 64 of images")
    parser.add_argument("--model", help="a folder of `scorefield fit`, unconditional, for the image problem")
    parser.add_argument("--picture", type=Path, help="where to draw the frontier")
    parser.add_argument("--no-peers", action="store_true", help="only our methods")
    arguments = parser.parse_args()
    theirs = [] if arguments.no_peers else installed_peers()
    everything: dict[str, dict[int, list[Result]]] = {}
    for problem in problems(arguments.problems, arguments.model, arguments.rows):
        judge = Judge(problem, arguments.seeds)
        plain: list[Method] = [*theirs, *unfitted()]
        if problem.name == "image":  # where an evaluation costs: what never led on a mixture is left out
            plain = [method for method in plain if not method.name.startswith(("DDIM", "Euler", "EDM Euler", "REAB"))]
        special = fitted(problem)
        found = {}
        for budget in arguments.budgets:
            start = time.perf_counter()
            found[budget] = judge.results(budget, plain, special)
            print(f"   {budget} evaluations: {len(plain)} methods, {time.perf_counter() - start:.0f} s", flush=True)
        table(problem, found)
        everything[problem.name] = found
    if arguments.picture:
        picture(arguments.picture, everything)


if __name__ == "__main__":
    main()
