"""Claim: fitted solvers end closer to the flow than diffusers, azula and k-diffusion, at 5 to 50 evaluations.

On mixtures they do, at 0.03 to 0.42 times the distance. On image models they mostly do: networks differ, and on one of
three they end 1.2 to 1.3 times as far at 20 and 32.

The end point of a sampler is compared with a fine solution of the probability flow from the same noise, E[x0 given x]
at the lowest level last: root mean square distance over rows and elements, relative to the data's deviation. Problems:
mixtures known in closed form in 2 and 64 dimensions, and a trained image model (`--model RUN`, or one fitted here to
scikit-learn's digits in a minute). σ goes from 80 to 0.002, for the image model over the range that it was trained on.

Every method of a library, on every grid of its own and with either ending (`_frontier_peers.py`), walks first from a
few noises, the best 12 from more, and the best 3 of each library from the noises that all are judged on, of several
seeds; the table has the best of these: theirs are chosen with the answer in sight. Families that are far behind at
every number of evaluations walk only with `--all-peers`. Fitted solvers (`_frontier_ours.py`) see other noises; one is
judged as `fit` makes it, and one for each grid. Evaluations are counted where the model is asked, and more than the
budget is an error. "→0" spends the last evaluation on E[x0 given x], "→σ" on one more step.

    python3 -m venv .peers && .peers/bin/pip install -c constraints.txt -e '.[test]'
    .peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    .peers/bin/python benchmarks/nfe_frontier.py [--problems 2d 64d image] [--picture frontier.png]

Where the peers are not installed, only ours are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from _frontier_ours import FITTED, FITTED_GRIDS, MEASURED, OURS, fitted, library, unfitted
from _frontier_problems import Counted, Method, Problem, Run, problems
from torch import Tensor

BUDGETS = (5, 8, 10, 16, 20, 32, 50)
SCREENED, FINALISTS = 12, 3  # of each library, that are searched among, and that are judged
PEERS = ("diffusers", "azula", "k-diffusion")

# At no budget within 1.5 times the best of all libraries on any problem (two evaluations a step, or first order).
BEHIND = ("DDIM", "Euler", "EDM Euler", "Heun", "DPM-2", "DPM-fast")
BEHIND_ON_IMAGES = (*BEHIND, "REAB", "LMS2")


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


def installed_peers(left_out: tuple[str, ...]) -> list[Method]:
    """Every method of the three libraries but some families, or none where a library is missing."""
    try:
        from _frontier_peers import peers, versions
    except ModuleNotFoundError as missing:
        print(f"only ours: {missing.name} is not installed; the first lines of this file say how to have the peers")
        return []
    print(versions())
    return [method for method in peers() if not method.name.startswith(left_out)]


def walk(problem: Problem, method: Method, run: Run, x: Tensor, budget: int) -> tuple[Tensor, int]:
    """The end point and the evaluations, which are at most the budget."""
    counted = Counted(problem.model, problem.dtype)
    with torch.no_grad():
        end = run(counted, x)
    if counted.calls > budget:
        raise RuntimeError(f"{method.library} {method.name} took {counted.calls} evaluations of {budget}")
    return end, counted.calls


class Judge:
    """The noises of a problem and where the flow takes them."""

    def __init__(self, problem: Problem, seeds: int) -> None:
        self.problem = problem
        start = time.perf_counter()
        self.judged = [problem.noises("judged", seed, problem.rows) for seed in range(seeds)]
        self.truths = [problem.truth(x) for x in self.judged]
        self.searched = problem.noises("search", 0, problem.search_rows)
        self.searched_truth = problem.truth(self.searched)
        halved = problem.error(problem.truth(self.searched, problem.fine_steps // 2), self.searched_truth)
        print(
            f"\n{problem.name}: rows {problem.rows} × {seeds} seeds, shape {problem.shape}, "
            f"σ {problem.model.schedule.t_max:g} to {problem.model.schedule.t_min:g}, "
            f"data deviation {problem.model.sigma_data:.3g}; halving the {problem.fine_steps} steps of the truth moves "
            f"it by {halved:.1g} ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        if halved > problem.tolerance:
            print(f"   WARNING: that is more than {problem.tolerance:g}")

    def results(self, budget: int, plain: list[Method], special: list[Method]) -> list[Result]:
        """The best of each library, and all that are special, best first, by the judged noises."""
        problem, results = self.problem, []
        screened = self._best(plain, budget, problem.screen_rows, SCREENED)
        for method in (*self._best(screened, budget, problem.search_rows, FINALISTS), *special):
            result, run = Result(method), method.fit(problem.model, budget)
            for x, truth in zip(self.judged, self.truths, strict=True):
                end, result.calls = walk(problem, method, run, x, budget)
                result.errors.append(problem.error(end, truth))
                result.middles.append(problem.middle_error(end, truth))
            results.append(result)
        return sorted(results, key=lambda result: result.error)

    def _best(self, methods: list[Method], budget: int, rows: int, count: int) -> list[Method]:
        """So many of each library on the first rows, none that ends where a better one does: some have two names."""
        problem, x, truth = self.problem, self.searched[:rows], self.searched_truth[:rows]
        found: dict[str, list[tuple[float, int, Method]]] = defaultdict(list)
        for number, method in enumerate(methods):
            end, _ = walk(problem, method, method.fit(problem.model, budget), x, budget)
            found[method.library].append((problem.error(end, truth), number, method))
        kept = []
        for reached in map(sorted, found.values()):
            errors = [0.0, *(error for error, *_ in reached)]
            other = [now > 1.0001 * before for before, now in pairwise(errors)]
            kept += [method for (*_, method), new in zip(reached, other, strict=True) if new][:count]
        return kept


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
        for name in (*PEERS, OURS, FITTED):
            result = best(results, name)
            if result is None:
                continue
            used = "" if result.calls == budget else f", {result.calls} evaluations"
            beside = "" if theirs is None else f" {ratio(result, theirs):>18}"
            middle = f"{statistics.fmean(result.middles):.2g}"
            print(f"   {name:>12} {result!s:>24} {middle:>8}{beside}  {result.method.name}{used}")
    print(f"\n{problem.name}: error, and in brackets its ratio to the best peer's over seeds\n")
    print("| evaluations | best peer | | ours, unfitted | | ours, fitted |\n|--:|---|--:|---|--:|--:|")
    for budget, results in found.items():
        theirs, ours, fit = best(results, *PEERS), best(results, OURS), best(results, FITTED)
        peer = " | " if theirs is None else f"{theirs.method.library} {theirs.method.name} | {theirs.error:.2g}"
        cells = ["" if r is None else f"{r.error:.2g}" + beside_peer(r, theirs) for r in (ours, fit)]
        print(f"| {budget} | {peer} | {'' if ours is None else ours.method.name} | {cells[0]} | {cells[1]} |")


def beside_peer(result: Result, theirs: Result | None) -> str:
    """The ratio in brackets, where there is a peer."""
    return "" if theirs is None else f" [{ratio(result, theirs)}]"


def grids_table(problem: Problem, found: dict[int, list[Result]]) -> None:
    """Print what fitted weights reach on each grid, and what the measured ones gain on the best of the others."""
    print(f"\n{problem.name}: error of fitted weights as `fit` chooses, and on each grid alone\n")
    print(f"| evaluations | chosen | {' | '.join(FITTED_GRIDS)} | best measured over the best other |")
    print(f"|--:|--:|{'--:|' * len(FITTED_GRIDS)}---|")
    for budget, results in found.items():
        each = [best(results, name) for name in (FITTED, *map(library, FITTED_GRIDS))]
        measured = best(results, *map(library, MEASURED))
        other = best(results, *(library(name) for name in FITTED_GRIDS if name not in MEASURED))
        if measured is not None and other is not None:
            cells = " | ".join("" if result is None else f"{result.error:.2g}" for result in each)
            print(f"| {budget} | {cells} | {ratio(measured, other)} |")


def picture(path: Path, found: dict[str, dict[int, list[Result]]]) -> None:
    """Error against evaluations, a panel for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = {
        "diffusers": (("diffusers",), "C0", ":", 1.2),
        "azula": (("azula",), "C1", ":", 1.2),
        "k-diffusion": (("k-diffusion",), "C2", ":", 1.2),
        "best of the three": (PEERS, "black", "--", 1.6),
        "ours, unfitted": ((OURS,), "C4", "-", 2.0),
        "ours, fitted": ((FITTED,), "C3", "-", 2.4),
    }
    size = (3.0 * len(found) + 0.4, 4.0)
    figure, axes = plt.subplots(1, len(found), figsize=size, squeeze=False, sharey=True, layout="constrained")
    handles = {}
    for axis, (name, by_budget) in zip(axes[0], found.items(), strict=True):
        for label, (names, colour, style, width) in lines.items():
            line = {budget: best(results, *names) for budget, results in by_budget.items()}
            kept = {budget: result.error for budget, result in line.items() if result is not None}
            if kept:
                (handles[label],) = axis.plot(
                    list(kept),
                    list(kept.values()),
                    style,
                    color=colour,
                    linewidth=width,
                    marker="o",
                    markersize=2 + width,
                )
        axis.set(xscale="log", yscale="log", title=name, xlabel="network evaluations")
        axis.minorticks_off()
        axis.set_xticks(list(by_budget), labels=[str(budget) for budget in by_budget])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("error, in deviations of the data")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
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
    parser.add_argument("--all-peers", action="store_true", help="those too that are far behind everywhere")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begin = time.perf_counter()
    theirs = [] if arguments.no_peers else installed_peers(() if arguments.all_peers else BEHIND)
    everything: dict[str, dict[int, list[Result]]] = {}
    for problem in problems(arguments.problems, arguments.model, arguments.rows):
        judge = Judge(problem, arguments.seeds)
        behind = BEHIND_ON_IMAGES if problem.name == "image" and not arguments.all_peers else ()
        plain = [*(method for method in theirs if not method.name.startswith(behind)), *unfitted()]
        start = time.perf_counter()
        special = fitted(problem)
        print(f"   paths for fitting: {problem.fit_rows}, {time.perf_counter() - start:.0f} s", flush=True)
        found = {}
        for budget in arguments.budgets:
            start = time.perf_counter()
            found[budget] = judge.results(budget, plain, special)
            print(f"   {budget} evaluations: {len(plain)} methods, {time.perf_counter() - start:.0f} s", flush=True)
        table(problem, found)
        grids_table(problem, found)
        everything[problem.name] = found
    if arguments.picture:
        picture(arguments.picture, everything)
    print(f"\n{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
