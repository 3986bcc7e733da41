"""Claim: log p takes 0.2 to 0.6 of the evaluations of dopri5 to its error, and 0.1 to 0.35 of zuko's time at its best.

The goals were 0.7 of the evaluations, with the trace counted as one of them, and less time. Measured in 2, 16 and 64
dimensions on the straight path: 0.60, 0.55 and 0.43 of the evaluations of dopri5 on the best of its three paths at
tolerance 1e-1 (0.70 for one seed), 0.39, 0.43 and 0.28 at the default, 1e-3; 0.34, 0.16 and 0.15 of zuko's time on the
mixture, 0.28, 0.11 and 0.14 with a network, zuko at tolerance 1e-8, the finest that it was given. It falls short along
dx/dσ at the default in 64 dimensions: it takes 0.86 of the evaluations with which dopri5 on another path is as exact,
as its own error there is only what the Gaussian at the top leaves out; of dopri5's along dx/dσ it takes 0.27 or less.

log p of rows drawn from mixtures in 2, 16 and 64 dimensions is known in closed form; the error is the mean over rows of
|log p − truth| in nats. Everyone is given the exact denoiser, rows in float64, and one thread.

First, evaluations: ours against torchdiffeq's dopri5 on the same ODE with the exact trace and our Gaussian at the far
end, at tolerances from 1e-2 to 1e-11, along dx/dσ of EDM, VP, and the straight path to noise alone. Ours asks some
levels for the path and others for the trace, dopri5 every one for both; the sum is counted. "Passes" counts what the
exact trace costs: an evaluation is one, and a pass back for each of D numbers where the trace is asked. dopri5's
evaluations at the error of ours are read off its own curve, straight between its tolerances on logarithmic axes, for
each seed of points. "The best" is that of its three paths which needs the fewest. On dx/dσ and VP both end at what the
Gaussian at the top leaves out, which more evaluations do not mend; the straight path ends in a Gaussian.

Second, seconds, of dopri5 and of the likelihoods of zuko and flow_matching with the exact trace
(`_likelihood_peers.py`), on the mixture alone and with an untrained network of 4 × 256 that is asked beside it and
multiplied by zero, so that an evaluation and every derivative cost what a network's do. All take turns within a round,
and each round has rows of its own. "At its best": a library's smallest error over its paths and tolerances, beside ours
at the tolerance that is at least as exact in the least time. Runs longer than `--patience` seconds are not repeated.

Third, random probes: ours with several, its error and the standard error that it claims, and zuko, flow_matching and
k-diffusion with the one that they have.

    python3 -m venv .peers && .peers/bin/pip install -c constraints.txt -e '.[test]'
    .peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    .peers/bin/python benchmarks/likelihood.py [--problems 2d 16d 64d] [--quick]

Where the peers are not installed, only ours are printed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from _likelihood_ours import DEFAULT, OURS, ours
from _likelihood_problems import Contender, Problem, network, problem_of

ROWS = {"2d": 128, "16d": 64, "64d": 16}
QUICK_ROWS = 8
PROBES = (2, 4, 16)
QUICK = (1e-2, 1e-4)


@dataclass
class Result:
    """What a contender reached at a tolerance, one entry a seed.

    Args:
        contender, tolerance: which.
        errors, largest: mean and maximum over rows, nats.
        evaluations, traces: mean over rows.
        claimed: root mean square of the claimed standard error, where there is one.
        score: root mean square of error over claimed standard error.
        seconds: by the number of the round.
    """

    contender: Contender
    tolerance: float
    errors: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    traces: list[float] = field(default_factory=list)
    claimed: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)

    def measure(self, problem: Problem, seed: int) -> float:
        """Run on the points of a seed and keep what was reached; the seconds that it took."""
        x = problem.points(seed)
        start = time.perf_counter()
        answer = self.contender.compute(problem, x, self.tolerance, seed)
        seconds = time.perf_counter() - start
        error = self.contender.errors(problem, x, answer)
        self.errors.append(float(error.mean()))
        self.largest.append(float(error.max()))
        self.evaluations.append(answer.evaluations)
        self.traces.append(answer.traces)
        if answer.std_error is not None:
            self.claimed.append(float(answer.std_error.square().mean().sqrt()))
            self.scores.append(float((error / answer.std_error).square().mean().sqrt()))
        return seconds

    @property
    def error(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.errors)


def measured(contenders: list[Contender], problem: Problem, seeds: int) -> list[Result]:
    """Every contender at every tolerance on the points of every seed."""
    results = [Result(contender, tolerance) for contender in contenders for tolerance in contender.tolerances]
    for result in results:
        for seed in range(seeds):
            result.measure(problem, seed)
    return results


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """Mean, and the least and largest in brackets where there are several."""
    text = form(statistics.fmean(values))
    return text if len(values) == 1 else f"{text} ({form(min(values))}–{form(max(values))})"


def small(value: float) -> str:
    """An error in nats."""
    return f"{value:.1e}"


# -- evaluations at equal error ---------------------------------------------------------------------------------------


def at_error(curve: list[tuple[float, float]], error: float) -> tuple[float, str]:
    """Evaluations of a curve of (evaluations, error) at an error, and "≤" or "≥" for the ratio where it does not reach.

    Straight lines on logarithmic axes between tolerances, of which those that more evaluations made worse are left out.
    """
    best: list[tuple[float, float]] = []
    for evaluations, reached in sorted(curve):
        if not best or reached < best[-1][1]:
            best.append((evaluations, reached))
    if error >= best[0][1]:
        return best[0][0], "≥" if error > best[0][1] else ""
    for (few, high), (many, low) in pairwise(best):
        if low <= error:
            share = math.log(high / error) / math.log(high / low)
            return few * (many / few) ** share, ""
    return best[-1][0], "≤"


def evaluations_table(problem: Problem, results: list[Result]) -> None:
    """Print every curve, and the ratio of our evaluations to dopri5's at our error."""
    print(f"\n{problem.name}, {problem.rows} rows: error and evaluations, mean over rows and seeds (over seeds)\n")
    print(
        "| | tolerance | mean error | largest | evaluations | with trace | claimed std error | error / claimed, rms |"
    )
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for result in results:
        cells = (spread(result.errors, small), small(max(result.largest)))
        counts = (f"{statistics.fmean(result.evaluations):.1f}", f"{statistics.fmean(result.traces):.1f}")
        claims = ("", "")
        if result.claimed:
            claims = (small(statistics.fmean(result.claimed)), f"{statistics.fmean(result.scores):.2f}")
        print(f"| {result.contender.label} | {result.tolerance:.0e} | {' | '.join((*cells, *counts, *claims))} |")
    theirs = dict.fromkeys(result.contender.label for result in results if result.contender.library != OURS)
    if not theirs:
        return
    print(
        f"\n{problem.name}: our evaluations over dopri5's at our error (over seeds); ≤ where dopri5 never gets there\n"
    )
    print(
        f"| | tolerance | our error | {' | '.join(f'/ {name}' for name in theirs)} | / the best | passes / the best |"
    )
    print(f"|---|--:|--:|{'---|' * (len(theirs) + 2)}")
    for result in results:
        if result.contender.library != OURS:
            continue
        counts = [
            [at_error(curve(results, name, seed), error) for seed, error in enumerate(result.errors)] for name in theirs
        ]
        best = [best_of(of_seed) for of_seed in zip(*counts, strict=True)]
        cells = [ratios(result.evaluations, of_path) for of_path in (*counts, best)]
        back = problem.features
        passes = [all_ + back * some for all_, some in zip(result.evaluations, result.traces, strict=True)]
        cells.append(ratios(passes, [((1 + back) * count, bound) for count, bound in best]))
        line = f"| {result.contender.label} | {result.tolerance:.0e} | {result.error:.1e} | {' | '.join(cells)} |"
        print(line, flush=True)


def curve(results: list[Result], label: str, seed: int) -> list[tuple[float, float]]:
    """Evaluations and error at each tolerance, for a seed."""
    return [(r.evaluations[seed], r.errors[seed]) for r in results if r.contender.label == label]


def best_of(counts: Iterable[tuple[float, str]]) -> tuple[float, str]:
    """The fewest evaluations among paths that reach the error, or among all where none does."""
    return min(counts, key=lambda count: (count[1] == "≤", count[0]))


def ratios(mine: list[float], theirs: list[tuple[float, str]]) -> str:
    """Ours over theirs, seed by seed; "≤" where theirs never gets there, "≥" where it is better from the start."""
    bounds = "".join(sorted({bound for _, bound in theirs}))
    return bounds + spread([a / b for a, (b, _) in zip(mine, theirs, strict=True)], "{:.2f}".format)


# -- seconds ----------------------------------------------------------------------------------------------------------


def timed(contenders: list[Contender], problem: Problem, rounds: int, patience: float) -> list[Result]:
    """Everyone in turn, round by round, each round with points of its own."""
    results = [Result(contender, tolerance) for contender in contenders for tolerance in contender.tolerances]
    few = replace(problem, rows=2)
    for contender in contenders:  # what is made once in a process is not timed
        Result(contender, contender.tolerances[0]).measure(few, 0)
    for number in range(rounds):
        for result in results:
            if number == 0 or result.seconds[0] < patience:
                result.seconds[number] = result.measure(problem, number)
    return results


def seconds_table(problem: Problem, results: list[Result]) -> None:
    """Print seconds and errors, and ours beside each library at its best."""
    field_name = "the mixture" if problem.network is None else "the mixture and a network of 4 × 256"
    print(f"\n{problem.name}, {problem.rows} rows, {field_name}: median over rounds (over rounds)\n")
    print("| | tolerance | mean error | largest | evaluations | with trace | ms |\n|---|--:|--:|--:|--:|--:|---|")
    for result in results:
        cells = (small(result.error), small(max(result.largest)))
        counts = (f"{statistics.fmean(result.evaluations):.0f}", f"{statistics.fmean(result.traces):.0f}")
        times = between([1e3 * seconds for seconds in result.seconds.values()], "{:.0f}".format)
        print(f"| {result.contender.label} | {result.tolerance:.0e} | {' | '.join((*cells, *counts, times))} |")
    by_library: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_library[result.contender.library].append(result)
    mine = by_library.pop(OURS)
    for library, theirs in by_library.items():
        best = min(theirs, key=lambda result: result.error)
        print(
            f"   {library} at its best, {best.contender.label} {best.tolerance:.0e}: {beside(mine, best)}", flush=True
        )


def beside(mine: list[Result], best: Result) -> str:
    """Ours at the tolerance with at most this error and the least time, and its seconds over theirs, round by round."""
    text = f"error {best.error:.1e}, {statistics.median(best.seconds.values()):.2f} s"
    able = [result for result in mine if result.error <= best.error]
    if not able:
        last = min(mine, key=lambda result: result.error)
        return f"{text}; ours does not reach it: {last.error:.1e}, {statistics.median(last.seconds.values()):.2f} s"
    first = min(able, key=lambda result: statistics.median(result.seconds.values()))
    shares = [first.seconds[number] / best.seconds[number] for number in first.seconds if number in best.seconds]
    return (
        f"{text}; ours {first.tolerance:.0e}: error {first.error:.1e}, {between(shares, '{:.3f}'.format)} of the time"
    )


def between(values: list[float], form: Callable[[float], str]) -> str:
    """Median, and the least and largest in brackets where there are several."""
    text = form(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({form(min(values))}–{form(max(values))})"


# -- random probes ----------------------------------------------------------------------------------------------------


def probes_table(problem: Problem, results: list[Result]) -> None:
    """Print errors beside claimed standard errors."""
    print(f"\n{problem.name}, {problem.rows} rows, random probes: mean over seeds (over seeds)\n")
    print("| | mean error | largest | claimed std error | error / claimed, rms | evaluations | with trace |")
    print("|---|---|--:|---|---|--:|--:|")
    for result in results:
        cells = (spread(result.errors, "{:.3f}".format), f"{max(result.largest):.2f}")
        counts = (f"{statistics.fmean(result.evaluations):.0f}", f"{statistics.fmean(result.traces):.0f}")
        said = ("none", "")
        if result.claimed:
            said = (spread(result.claimed, "{:.3f}".format), spread(result.scores, "{:.2f}".format))
        print(f"| {result.contender.label} | {' | '.join((*cells, *said, *counts))} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=("2d", "16d", "64d"), help="all; the first two if quick")
    parser.add_argument("--rows", type=int, help="for each seed; 128, 64 and 16 by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=2.0, help="seconds of a run that is not repeated")
    parser.add_argument(
        "--alone", action="store_true", help="count for dopri5 with one row at a time, too: some minutes more"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows, tolerances, seeds and rounds: a minute")
    parser.add_argument("--no-peers", action="store_true", help="only ours")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begin, quick = time.perf_counter(), arguments.quick
    print(what_is_installed())
    seeds, rounds = (1, 1) if quick else (arguments.seeds, arguments.rounds)
    for name in arguments.problems or (["2d", "16d"] if quick else ["2d", "16d", "64d"]):
        everyone = contenders(name, quick, arguments.no_peers, arguments.alone)
        problem = problem_of(name, QUICK_ROWS if quick else arguments.rows or ROWS[name])
        costly = replace(problem, network=network(problem.features))
        evaluations_table(problem, measured(everyone["counted"], problem, seeds))
        seconds_table(problem, timed(everyone["timed"], problem, rounds, arguments.patience))
        seconds_table(costly, timed(everyone["costly"], costly, rounds, arguments.patience))
        probes_table(problem, measured(everyone["random"], problem, seeds))
        print(f"\n{time.perf_counter() - begin:.0f} s so far", flush=True)


def what_is_installed() -> str:
    """The versions of the peers, or what is missing."""
    try:
        from _likelihood_peers import versions
    except ModuleNotFoundError as missing:
        return f"only ours: {missing.name} is not installed; the first lines of this file say how to have the peers"
    return versions()


def contenders(name: str, quick: bool, no_peers: bool, rows_alone: bool) -> dict[str, list[Contender]]:
    """Those whose evaluations are counted, those timed, on the mixture and with a network, and those with probes."""
    fine = QUICK if quick else (1e-4, 1e-6, 1e-8)
    mine = QUICK if quick else (1e-1, 1e-2, DEFAULT, 1e-4, 1e-6)
    found = {
        "counted": [ours("straight", tolerances=mine), ours("VP", tolerances=mine[:3]), ours("σ", tolerances=mine[:3])],
        "timed": [ours("straight", tolerances=mine)],
        "costly": [ours("straight", tolerances=mine)],
        "random": [ours("σ", probes, (DEFAULT,)) for probes in PROBES],
    }
    if no_peers:
        return found
    try:
        from _likelihood_peers import alone, dopri5, flow_matchings, k_diffusions, zukos
    except ModuleNotFoundError:
        return found
    theirs = (1e-4, 1e-6) if quick else fine
    ladder = (*QUICK, 1e-6) if quick else tuple(10.0**-digits for digits in range(2, 12))
    counted = [dopri5("σ", True, ladder[:8]), dopri5("VP", True, ladder[:8]), dopri5("straight", True, ladder)]
    found["counted"] += counted
    if rows_alone:
        found["counted"] += [alone(contender) for contender in counted]
    found["timed"] += [dopri5("VP", False, theirs), dopri5("straight", False, theirs), zukos("σ", True, theirs[:2])]
    found["timed"] += [zukos("straight", True, theirs), flow_matchings(True, theirs)]
    found["costly"] += [dopri5("straight", False, theirs[1:]), zukos("straight", True, theirs[1:])]
    found["costly"] += [flow_matchings(True, theirs[1:2])]
    one = (1e-4,)
    found["random"] += [zukos("σ", False, one), zukos("straight", False, one), flow_matchings(False, one)]
    found["random"] += [k_diffusions(one)]
    return found


if __name__ == "__main__":
    main()
