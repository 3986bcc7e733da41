"""Claim: rows of a default fit rank before those of ForestDiffusion (reduced) and of a copula on eight real tables.

Beside ForestDiffusion (Jolicoeur-Martineau, Fatras & Kachman 2024, arXiv:2309.09968) and a Gaussian copula, by the
measures of its benchmark and two of copying (`_tables_measures.py`), over five fixed splits, four fifths of the rows to
learn from. Ours has the table as it is and no options; ForestDiffusion is told which columns are categories, binary,
whole and the label. As many rows are drawn as are learnt from, several times for small tables.

*Rows.* ForestDiffusion's cost grows with rows, columns and categories, so all methods learn from the same `--rows` rows
at most; with `--full` ours and the copula learn from all of them too, in lines of their own that have no rank.

*ForestDiffusion's settings* are n_t = 50 levels and K = 100 copies by default, which is hours on one core. The table
prints what each set has instead (`_tables_peers.FORESTS`). Training is n_t fits of like cost, which grows with K and
with max_bin, so that at 50 levels it takes 50/n_t as long at least; `--defaults` runs it so.

*Seconds* are of one thread of the processor, to fit and to draw once, so that other work beside does not count.

*Ranks* are of the means over splits: per table and measure, then averaged over the measures w_train, w_test,
cover_train, cover_test, useful and told, then over tables, with the standard error over tables. The line "the rows
themselves" is what rows learnt from would have, the bound of all but copying.

On churn, CatBoost that saw drawn rows alone: TabDDPM (Kotelnikov et al. 2023, arXiv:2209.15421) publishes a macro-F1 of
0.755 beside 0.740 for real rows, on other splits and with tuned learners.

    pip install -r benchmarks/requirements-tables.txt              in an environment of its own
    python benchmarks/tables.py --data FOLDER [--tables iris churn] [--splits 5] [--rows 2000] [--full] [--cache KEPT]

FOLDER has penguins.csv, wine.csv (red wine), parkinsons.csv, churn.csv, adult-train.csv and diamonds.csv; iris,
wine and breast cancer come with scikit-learn. `--quick` takes under a minute: one split of iris, smaller forests.
`--cache` keeps what peers drew and its measures; `--kept` runs no forest anew and compares the splits that are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _tables_cache import Cache, Drawn
from _tables_data import OF_SKLEARN, TABLES, Split, split
from _tables_measures import VERSION, measure
from _tables_ours import OURS, rows_of_ours
from _tables_peers import FOREST, FORESTS, Forest, is_kept, rows_of
from _tables_report import METHODS, REAL, Figures, ranks, summary

_DRAWN, _SETS, _MOST_TEST = 5000, 5, 1000  # rows in all sets of a split, sets at most, held-out rows at most


def judge(part: Split, method: str, forest: Forest, cache: Cache) -> Figures:
    """The measures of one method on one split, the mean over its sets, and its seconds."""
    sets = _sets(part)
    if method == REAL:
        made = Drawn([part.table.tidy(part.train)], 0.0)
    elif method == OURS:
        made = rows_of_ours(part, sets)
    else:
        made = rows_of(method, part, sets, forest, cache)
    if method == OURS:
        return {**_measures(part, made), "seconds": made.seconds}
    key = {"what": "figures", "method": method, "table": part.table.name, "split": part.number, "version": VERSION}
    key |= {"settings": str(forest) if method == FOREST else "ordered", "rows": len(part.train), "sets": sets}
    return {**cache.figures(key, lambda: _measures(part, made)), "seconds": made.seconds}


def _measures(part: Split, made: Drawn) -> Figures:
    each = [measure(part, rows, boosted=part.table.name == "churn") for rows in made.sets]
    return {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the tables that scikit-learn lacks")
    parser.add_argument("--tables", nargs="+", choices=TABLES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000, help="to learn from at most, for all methods")
    parser.add_argument("--full", action="store_true", help="ours and the copula learn from all rows too")
    parser.add_argument("--cache", type=Path, help="folder where results of peers are kept")
    parser.add_argument("--kept", action="store_true", help="ForestDiffusion only where it is kept")
    parser.add_argument("--defaults", action="store_true", help="ForestDiffusion with its defaults: hours")
    parser.add_argument("--quick", action="store_true", help="under a minute: one split of iris")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, cache = time.perf_counter(), Cache(options.cache)
    names = options.tables or (["iris"] if options.quick else list(TABLES if options.data else OF_SKLEARN))
    if options.data is None and set(names) - set(OF_SKLEARN):
        parser.error("these tables need --data FOLDER")
    tables: dict[str, dict[str, dict[int, Figures]]] = {}
    summaries = []
    for name in names:
        table = TABLES[name](options.data)
        forest = Forest() if options.defaults else FORESTS[name]
        forest = replace(forest, levels=5, copies=20) if options.quick else forest
        found: dict[str, dict[int, Figures]] = {method: {} for method in (*options.methods, REAL)}
        whole: dict[str, dict[int, Figures]] = {}
        size = ""
        for number in range(1 if options.quick else options.splits):
            part = split(table, number, options.rows, _MOST_TEST)
            size = f"{len(part.train)} rows to learn from, {len(part.test)} held out"
            for method, of_splits in found.items():
                if method == FOREST and options.kept and not is_kept(part, _sets(part), forest, cache):
                    continue
                of_splits[number] = judge(part, method, forest, cache)
                print(f"  {name} {number} {method}: {_told(of_splits[number])}", flush=True)
            everything = split(table, number, None, _MOST_TEST)
            if options.full and len(everything.train) > len(part.train):
                for method in (m for m in found if m != FOREST):
                    told = f"{method}, all {len(everything.train)}"
                    whole.setdefault(told, {})[number] = judge(everything, method, forest, cache)
                    print(f"  {name} {number} {told}: {_told(whole[told][number])}", flush=True)
        found = {method: figures for method, figures in found.items() if figures}
        tables[name] = found
        summaries.append(summary(name, {**found, **whole}, size, forest))
        print(summaries[-1], flush=True)
        if options.out:
            options.out.write_text(json.dumps({n: {**f} for n, f in tables.items()}, indent=1) + "\n")
    print("\n\n".join(["", *summaries, ranks(tables)]))
    print(f"{time.perf_counter() - start:.0f} s in all")


def _sets(part: Split) -> int:
    return min(_SETS, max(1, _DRAWN // len(part.train)))


def _told(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
