"""What one step of each objective costs: loss and gradients on one network, in dimensions from 2 to 784.

Claims: beside denoising in the same dimension, the exact trace of implicit score matching grows with the dimension,
one backward pass a number of a row; sliced and finite-difference matching do not, nor does the exact trace of a network
with two hidden layers, which knows it in closed form. And each objective here costs at most what the best form written
by hand for it costs.

A step is everything up to the gradients: times, random numbers, noise, loss, backward pass. By hand means: no library,
coefficients in float32, `torch.randn`, and each way that PyTorch has to the same derivative:

    double    one projection: ∂(vᵀs)/∂x kept in the graph, differentiated once more
    jvp       one projection: torch.func.jvp through the network, then backward
    dual      the same by dual numbers, torch.autograd.forward_ad
    loop      the trace: D backward passes
    batched   the same passes at once (is_grads_batched)
    vmap      D forward derivatives at once, torch.func.vmap over jvp
    closed    the trace of two hidden layers, d₂ᵀ(W₂ ∘ (W₁W₃)ᵀ)d₁

Each comparison is made twice: with random numbers drawn in each step, where ours are keyed by seed, step and row and so
cost more than `torch.randn`, and with numbers drawn beforehand, which leaves the objective alone.

Contenders take turns within each round, because the speed of a machine drifts; a ratio is of one round, and the tables
give its median and extremes over the rounds. Explicit matching is left out: its cost is that of the known score.
With one thread the clock is processor time, so that other work on the machine does not count.

    python benchmarks/objectives_cost.py [--dimensions 2 16 64 256 784] [--rounds 9] [--batch 512] [--threads 1] [--all]

The exact trace by D passes is measured up to D = 64, with --all in every dimension (minutes and gigabytes).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _objectives_by_hand import HAND, SIGMA_DATA, Drawn, Given, batched, closed, hand_step, loop, vmap
from _objectives_report import draw_cost
from torch import Tensor, nn

from scorefield.model import EnergyDenoiser, NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, Schedule
from scorefield.objectives.criteria import Criterion, Denoising
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.objectives.times import LogNormal
from scorefield.objectives.weights import one
from scorefield.parametrization import edm_f
from scorefield.randomness import Noise, Stream
from scorefield.training.memory import keep_freed_memory
from scorefield.training.optimiser import Optimiser

WIDTH = 256
PASSES_LIMIT = 64  # dimensions up to which the trace by D passes is measured without --all
LEAST = 0.03  # seconds that a contender runs in each round

GIVEN = " (given)"  # marks a step whose random numbers are drawn beforehand

Step = Callable[[], None]


@dataclass(frozen=True)
class Contender:
    """A step to be timed, and what it is compared with.

    Args:
        run: the step.
        job: contenders of one job minimise the same loss.
        form: how, where it is by hand; empty for the library's.
    """

    run: Step
    job: str
    form: str = ""


# -- the library ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenNoise(Noise):
    """The library's noise, drawn once."""

    normals: list[Tensor]

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return self.normals[draw]


@dataclass(frozen=True)
class GivenTimes:
    """The library's law of t, drawn once."""

    t: Tensor

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.t


def library_step(model: NetworkDenoiser, criterion: Criterion, x0: Tensor, *, given: bool) -> Step:
    """Loss and gradients of an objective as the training loop computes them."""
    law, rows = LogNormal(-1.2, 1.2), range(len(x0))
    stream, times = Stream(0, "benchmark noise"), Stream(0, "benchmark times")
    parameters = list(model.parameters())
    drawn = GivenNoise(stream, rows, 0, [Noise(stream, rows, 0).like(x0, draw) for draw in range(2)])
    u = stratified(times.uniform(len(x0)))
    objective = ScoreMatching(GivenTimes(law.quantile(u, model.schedule)) if given else law, criterion, one)
    count = 0

    def run() -> None:
        nonlocal count
        count += 1
        for parameter in parameters:
            parameter.grad = None
        if given:
            losses = objective(model, x0, drawn, u)
        else:
            losses = objective(model, x0, Noise(stream, rows, count), stratified(times.uniform(len(x0), step=count)))
        losses.mean().backward()

    return run


# -- taking turns -----------------------------------------------------------------------------------------------------


def contenders(size: int, depth: int, rows: int, *, everything: bool) -> dict[str, Contender]:
    """All that is timed on one network: its objectives, the same by hand, both again on given numbers, and the rest."""
    torch.manual_seed(0)
    network = MLP((size,), WIDTH, depth)
    nn.init.normal_(network.out.weight, std=0.05)
    f = edm_f(SIGMA_DATA)
    parts = (network, EDM(0.002, 80.0), f, SIGMA_DATA)
    model, gradient = NetworkDenoiser(*parts), EnergyDenoiser(*parts)
    x0 = torch.randn(rows, size)
    by_passes = everything or size <= PASSES_LIMIT
    library: dict[str, tuple[NetworkDenoiser, Criterion, str]] = {
        "denoising": (model, Denoising(f), "denoising"),
        "sliced": (model, Sliced(f, reduced_variance=False), "sliced"),
        "sliced, reduced variance": (model, Sliced(f), "sliced"),
        "finite difference": (model, FiniteDifference(f), "finite difference"),
        "implicit": (model, Implicit(f), "exact trace"),
        "energy, denoising": (gradient, Denoising(f), "energy"),
        "energy, finite difference": (gradient, FiniteDifference(f), "energy, finite difference"),
    }
    entries = {}
    for given, numbers, mark in ((False, Drawn(), ""), (True, Given(x0), GIVEN)):
        for name, (own, criterion, job) in library.items():
            if job != "exact trace" or depth == 2 or (by_passes and not given):
                entries[name + mark] = Contender(library_step(own, criterion, x0, given=given), job)
        for form, (job, how) in HAND.items():
            passes = form in (loop, batched, vmap)
            if (depth == 2 or form != closed) and (not passes or (by_passes and not given)):
                entries[f"by hand: {job}, {how}{mark}"] = Contender(hand_step(network, form, x0, numbers), job, how)
    optimiser, stream = Optimiser(network, muon=False, beta2=0.99), Stream(0, "benchmark noise")
    entries["Adam"] = Contender(lambda: optimiser.step(0.0), "optimiser")
    entries["normals, keyed"] = Contender(lambda: (Noise(stream, range(rows), 1).like(x0), None)[1], "numbers")
    entries["normals, torch.randn"] = Contender(lambda: (torch.randn_like(x0), None)[1], "numbers")
    return entries


def seconds(run: Step, repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def measure(entries: dict[str, Contender], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds a step of each contender in each round, taking turns in an order that is reversed every other round."""
    repeats = {}
    for name, entry in entries.items():
        seconds(entry.run, 2, clock)
        repeats[name] = max(1, round(LEAST / max(seconds(entry.run, 2, clock), 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(rounds):
        names = list(entries) if number % 2 == 0 else list(reversed(entries))
        for name in names:
            times[name].append(seconds(entries[name].run, repeats[name], clock))
    return times


def ratios(mine: list[float], others: list[float]) -> list[float]:
    return [a / b for a, b in zip(mine, others, strict=True)]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


@dataclass(frozen=True)
class Result:
    """Of one network in one dimension.

    Args:
        depth, size: number of hidden layers, D.
        milliseconds: a step of each contender, median of the rounds.
        relative: × denoising, one a round.
        best: for each of the library's, the name of the best form by hand and the ratio to it, one a round.
    """

    depth: int
    size: int
    milliseconds: dict[str, float]
    relative: dict[str, list[float]]
    best: dict[str, tuple[str, list[float]]]


def compare(size: int, depth: int, entries: dict[str, Contender], times: dict[str, list[float]]) -> Result:
    """Ratios of one network in one dimension; given numbers are compared with given numbers."""
    best = {}
    for name, entry in entries.items():
        hand = [
            other
            for other, rival in entries.items()
            if rival.form and rival.job == entry.job and other.endswith(GIVEN) == name.endswith(GIVEN)
        ]
        if hand and not entry.form:
            fastest = min(hand, key=lambda other: statistics.median(times[other]))
            best[name] = (entries[fastest].form, ratios(times[name], times[fastest]))
    return Result(
        depth,
        size,
        {name: 1e3 * statistics.median(values) for name, values in times.items()},
        {name: ratios(values, times["denoising"]) for name, values in times.items()},
        best,
    )


def show(result: Result, rows: int) -> None:
    print(f"\nD = {result.size}, {result.depth} hidden layers of {WIDTH}, batch {rows}")
    print(f"  {'':36}{'ms':>9}   {'× denoising':21}{'÷ best by hand':21}{'… on given numbers':21}")
    for name, value in result.milliseconds.items():
        if name.endswith(GIVEN):
            continue
        best, against = result.best.get(name, ("", []))
        given = result.best.get(name + GIVEN, ("", []))[1]
        beside = f"{spread(against):21}{spread(given) if given else '':21}({best})" if against else ""
        print(f"  {name:36}{value:9.2f}   {spread(result.relative[name]):21}{beside}".rstrip(), flush=True)


def markdown(results: list[Result]) -> str:
    """Two tables a network: objectives down, dimensions across."""
    lines = []
    for depth in sorted({result.depth for result in results}):
        mine = [result for result in results if result.depth == depth]
        head = " | ".join(f"D = {r.size}" for r in mine)
        lines += [
            f"**{depth} hidden layers of {WIDTH}**",
            "",
            f"| × denoising | {head} |",
            "|---" * (len(mine) + 1) + "|",
        ]
        lines += ["| denoising, ms | " + " | ".join(f"{r.milliseconds['denoising']:.1f}" for r in mine) + " |"]
        for name in mine[0].milliseconds:
            if name != "denoising" and not name.endswith(GIVEN):
                cells = [f"{statistics.median(r.relative[name]):.2f}" if name in r.relative else "" for r in mine]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", f"| ours ÷ best by hand | {head} |", "|---" * (len(mine) + 1) + "|"]
        for name in mine[0].best:
            cells = [spread(r.best[name][1]) if name in r.best else "" for r in mine]
            lines.append(f"| {name.replace(GIVEN, ', given numbers')} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def curves(results: list[Result]) -> dict[str, dict[int, float]]:
    """× denoising by dimension, for the picture."""
    shown = {
        "by hand: exact trace, loop": "exact trace, D backward passes",
        "implicit": "implicit, trace in closed form",
        "sliced, reduced variance": "sliced",
        "finite difference": "finite difference",
        "energy, denoising": "energy, denoising",
    }
    return {
        label: {r.size: statistics.median(r.relative[name]) for r in results if name in r.relative}
        for name, label in shown.items()
    }


def verdicts(results: list[Result]) -> None:
    """The claims, each with its numbers."""
    print("\nclaims")
    for depth in sorted({result.depth for result in results}):
        mine = [result for result in results if result.depth == depth]
        for name in ("by hand: exact trace, loop", "implicit", "sliced, reduced variance", "finite difference"):
            cells = [f"{statistics.median(r.relative[name]):.2f} at {r.size}" for r in mine if name in r.relative]
            print(f"  {depth} layers, {name}: × denoising {', '.join(cells)}")
    for mark, words in (("", "fresh random numbers"), (GIVEN, "given numbers")):
        each = sorted(
            (statistics.median(values), f"{name.removesuffix(GIVEN)} at D = {r.size}, {r.depth} layers")
            for r in results
            for name, (_, values) in r.best.items()
            if name.endswith(GIVEN) == bool(mark)
        )
        middle, (worst, where) = statistics.median(value for value, _ in each), each[-1]
        print(f"  ours ÷ best by hand, {words}: median {middle:.2f} of {len(each)}, worst {worst:.2f}, {where}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 16, 64, 256, 784])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="D passes for the exact trace in every dimension")
    parser.add_argument("--markdown", type=Path, help="write the tables here as well")
    parser.add_argument("--picture", type=Path, help="draw the first network's curves here")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.rounds} rounds")
    results = []
    for depth in options.depths:
        for size in options.dimensions:
            entries = contenders(size, depth, options.batch, everything=options.all)
            results.append(compare(size, depth, entries, measure(entries, options.rounds, clock)))
            show(results[-1], options.batch)
    verdicts(results)
    if options.markdown:
        options.markdown.write_text(markdown(results), encoding="utf-8")
    if options.picture:
        draw_cost(curves([result for result in results if result.depth == options.depths[0]]), options.picture)


if __name__ == "__main__":
    main()
