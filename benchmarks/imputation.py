"""Claim: draws for holes have a smaller energy score than other imputers' on eight tables, but for a fifth of wine's.

Beside ForestDiffusion's imputation with RePaint (Jolicoeur-Martineau, Fatras & Kachman 2024, arXiv:2309.09968) and
scikit-learn's IterativeImputer, drawing from its posterior, and KNNImputer, which knows one answer. A fifth and a half
of the cells are holes, at random; of every row there are 19 draws. What is measured is said in `_tables_holes.py`.

*Where holes are.* With `--holes test`, the default, only held-out rows have them, and one fit on complete rows fills
both; with `--holes all` the rows learnt from have them too. Only held-out rows are filled, never those learnt from.
Cells that the table itself lacks are neither filled nor measured.

*Rows, splits and ForestDiffusion's settings* are as for `tables.py`, at most `--rows` to learn from and 200 to fill.
Its defaults are 50 levels and 100 copies; RePaint with r = 10 and jumps of a tenth is what its authors advise.
Seconds are of one thread of the processor, to fit and to fill once.

    python benchmarks/imputation.py --data FOLDER [--tables iris churn] [--splits 3] [--holes all] [--cache KEPT]

in the environment of requirements-tables.txt. Means ± standard errors over splits, ratios split by split, and at the
end the mean rank by energy, crps, brier and |within − 0.9|. `--quick` takes under a minute: a split of iris, a fifth.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _tables_cache import Cache
from _tables_data import OF_SKLEARN, TABLES, Split, split
from _tables_holes import DRAWS, hide, judge_filled, punch
from _tables_imputers import CHAINED, NEIGHBOURS, REPAINT, REPAINTS, fill
from _tables_ours import OURS, fill_ours
from _tables_peers import Forest
from _tables_report import Figures, OfSplits, common, spread

METHODS = (OURS, REPAINT, CHAINED, NEIGHBOURS)
SHARES = (0.2, 0.5)
_MOST_TEST = 200
_SHOWN = ("mae", "crps", "within", "wrong", "brier", "energy", "w_filled", "seconds")
_RANKED = ("energy", "crps", "brier", "within")


def judge(part: Split, shares: list[float], method: str, where: str, cache: Cache, forest: Forest) -> list[Figures]:
    """The figures of one method on one split for each share of holes."""
    if where == "all":
        return [_judge_one_fit(part, [share], share, method, cache, forest)[0] for share in shares]
    return _judge_one_fit(part, shares, 0.0, method, cache, forest)


def _judge_one_fit(
    part: Split, shares: list[float], learnt: float, method: str, cache: Cache, forest: Forest
) -> list[Figures]:
    """The same after one fit to rows with this share of holes."""
    train, gaps = punch(part, part.train, learnt, "train")
    tests = [punch(part, part.test, share, "test") for share in shares]
    if method == OURS:
        made = fill_ours(part, train, [test for test, _ in tests])
    else:
        hidden = [hide(part, part.test, holes) for _, holes in tests]
        fit = partial(fill, method, part, hide(part, part.train, gaps), hidden, forest)
        made = cache.drawn(_key(part, method, shares, learnt, forest), fit)
    judged = [judge_filled(part, holes, rows) for (_, holes), rows in zip(tests, made.sets, strict=True)]
    return [{**figures, "seconds": made.seconds} for figures in judged]


def is_kept(part: Split, shares: list[float], where: str, cache: Cache, forest: Forest) -> bool:
    """Whether the rows of ForestDiffusion are kept."""
    fits = [([share], share) for share in shares] if where == "all" else [(shares, 0.0)]
    return all(cache.has(_key(part, REPAINT, of_fit, learnt, forest)) for of_fit, learnt in fits)


def _key(part: Split, method: str, shares: list[float], learnt: float, forest: Forest) -> dict[str, object]:
    told = str(forest) if method == REPAINT else "defaults"
    key = {"what": "filled", "method": method, "table": part.table.name, "split": part.number, "learnt": learnt}
    return {**key, "shares": shares, "settings": told, "rows": len(part.train), "to": len(part.test), "draws": DRAWS}


def ranks(tables: dict[str, dict[str, OfSplits]]) -> str:
    """The mean rank of each method by measure over tables and shares; the last column with its error over them."""
    methods = [method for method in METHODS if any(method in found for found in tables.values())]
    full = [found for found in tables.values() if set(methods) <= set(found)]
    if not full or len(methods) < 2:
        return "no ranks: one method only"
    by_table = np.full((len(methods), len(_RANKED), len(full)), np.nan)
    for t, found in enumerate(full):
        for m, kind in enumerate(_RANKED):
            if all(kind in found[method][k] for method in methods for k in common(found)):
                means = [np.mean([_loss(found[method][k], kind) for k in common(found)]) for method in methods]
                by_table[:, m, t] = [
                    1 + sum(o < v for o in means) + (sum(o == v for o in means) - 1) / 2 for v in means
                ]
    lines = [f"mean rank of {len(methods)} over {len(full)} tables with their holes"]
    lines.append(f"{'':20}" + "".join(f"{kind:>14}" for kind in (*_RANKED, "all")))
    for method, places in zip(methods, by_table, strict=True):
        cells = [f"{np.nanmean(place):.2f}" if np.isfinite(place).any() else "" for place in places]
        cells.append(spread(list(np.nanmean(places, axis=0))))
        lines.append(f"{method:20}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _loss(figures: Figures, kind: str) -> float:
    return abs(figures[kind] - 0.9) if kind == "within" else figures[kind]


def summary(title: str, found: dict[str, OfSplits]) -> str:
    """The table of a table and a share of holes."""
    splits = common(found)
    shown = [kind for kind in _SHOWN if all(kind in figures[k] for figures in found.values() for k in splits)]
    lines = [f"{title}, {len(splits)} splits", f"{'':20}" + "".join(f"{kind:>14}" for kind in shown)]
    for method, figures in found.items():
        cells = [spread([figures[k][kind] for k in splits]) for kind in shown]
        lines.append(f"{method:20}" + "".join(f"{cell:>14}" for cell in cells))
    for method in found:
        if method != OURS and OURS in found:
            ratios = [found[OURS][k]["energy"] / found[method][k]["energy"] for k in splits]
            lines.append(f"  ours / {method}, energy: {spread(ratios)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the tables that scikit-learn lacks")
    parser.add_argument("--tables", nargs="+", choices=TABLES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000, help="to learn from at most, for all methods")
    parser.add_argument("--holes", choices=("test", "all"), default="test", help="which rows have holes")
    parser.add_argument("--cache", type=Path, help="folder where results of peers are kept")
    parser.add_argument("--kept", action="store_true", help="ForestDiffusion only where it is kept")
    parser.add_argument("--defaults", action="store_true", help="ForestDiffusion with its defaults: hours")
    parser.add_argument("--quick", action="store_true", help="under a minute: one split of iris, a fifth of holes")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, cache = time.perf_counter(), Cache(options.cache)
    names = options.tables or (["iris"] if options.quick else list(TABLES if options.data else OF_SKLEARN))
    if options.data is None and set(names) - set(OF_SKLEARN):
        parser.error("these tables need --data FOLDER")
    shares = list(SHARES[:1] if options.quick else SHARES)
    tables: dict[str, dict[str, OfSplits]] = {}
    for name in names:
        table = TABLES[name](options.data)
        forest = Forest() if options.defaults else REPAINTS[name]
        forest = replace(forest, levels=10, copies=10) if options.quick else forest
        found: dict[float, dict[str, OfSplits]] = {
            share: {method: {} for method in options.methods} for share in shares
        }
        size = ""
        for number in range(1 if options.quick else options.splits):
            part = split(table, number, options.rows, _MOST_TEST)
            size = f"{len(part.train)} rows to learn from, {len(part.test)} to fill"
            for method in options.methods:
                if method == REPAINT and options.kept and not is_kept(part, shares, options.holes, cache, forest):
                    continue
                for share, figures in zip(
                    shares, judge(part, shares, method, options.holes, cache, forest), strict=True
                ):
                    found[share][method][number] = figures
                    told = ", ".join(f"{kind} {value:.3f}" for kind, value in figures.items())
                    print(f"  {name} {number} {share:.0%} {method}: {told}", flush=True)
        for share, methods in found.items():
            title = f"{name}, {share:.0%} holes in {options.holes} rows: {size}; ForestDiffusion with {forest}"
            tables[title] = {method: figures for method, figures in methods.items() if figures}
            print(summary(title, tables[title]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(tables, indent=1) + "\n")
    print("\n\n".join(["", *(summary(title, found) for title, found in tables.items()), ranks(tables)]))
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
