"""Tables of figures over splits, ratios of each split with their spread, and mean ranks over tables."""

from __future__ import annotations

import numpy as np
from _tables_ours import OURS
from _tables_peers import COPULA, FOREST, Forest

REAL = "the rows themselves"
METHODS = (OURS, FOREST, COPULA)
# The measures that are ranked, with −1 where more is better.
RANKED = {"w_train": 1, "w_test": 1, "cover_train": -1, "cover_test": -1, "useful": -1, "told": 1}
_SHOWN = (*RANKED, "closest", "copies")
Figures = dict[str, float]
OfSplits = dict[int, Figures]


def spread(values: list[float]) -> str:
    """Mean ± standard error over splits."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f}±{np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def summary(name: str, found: dict[str, OfSplits], rows: str, forest: Forest) -> str:
    """The table of a table: the mean over the splits that all methods have, and ratios of each split."""
    splits = common(found)
    measures = [*_SHOWN, *(["boosted"] if name == "churn" else []), "seconds"]
    lines = [f"{name}: {rows}, {len(splits)} splits; ForestDiffusion with {forest}"]
    lines.append(f"{'':24}" + "".join(f"{kind:>14}" for kind in measures))
    for method, figures in found.items():
        cells = [spread([figures[k][kind] for k in splits]) for kind in measures]
        lines.append(f"{method:24}" + "".join(f"{cell:>14}" for cell in cells))
    if {OURS, FOREST} <= set(found):
        for kind in ("seconds", "w_test"):
            ratios = [found[OURS][k][kind] / found[FOREST][k][kind] for k in splits]
            lines.append(f"  ours / ForestDiffusion, {kind}: {spread(ratios)}")
    return "\n".join(lines)


def common(found: dict[str, OfSplits]) -> list[int]:
    """The splits that all methods have."""
    return sorted(set.intersection(*(set(figures) for figures in found.values())))


def ranks(tables: dict[str, dict[str, OfSplits]]) -> str:
    """The mean rank of each method by measure, over the tables that all methods have; the last column has its error."""
    methods = [method for method in METHODS if any(method in found for found in tables.values())]
    full = {name: found for name, found in tables.items() if set(methods) <= set(found)}
    if not full or len(methods) < 2:
        return "no ranks: one method only"
    places = np.zeros((len(methods), len(RANKED), len(full)))
    for t, found in enumerate(full.values()):
        for m, (measure, sign) in enumerate(RANKED.items()):
            means = [sign * np.mean([found[method][k][measure] for k in common(found)]) for method in methods]
            places[:, m, t] = [1 + sum(o < v for o in means) + (sum(o == v for o in means) - 1) / 2 for v in means]
    lines = [f"mean rank of {len(methods)} over {', '.join(full)}"]
    lines.append(f"{'':24}" + "".join(f"{measure:>14}" for measure in (*RANKED, "all")))
    for method, place in zip(methods, places, strict=True):
        by_table = place.mean(0)
        cells = [f"{value:.2f}" for value in place.mean(1)] + [spread(list(by_table))]
        lines.append(f"{method:24}" + "".join(f"{cell:>14}" for cell in cells))
    if {OURS, FOREST} <= set(methods):
        taken = {m: [np.mean([f[m][k]["seconds"] for k in common(f)]) for f in full.values()] for m in (OURS, FOREST)}
        ratios = np.log(np.array(taken[OURS]) / np.array(taken[FOREST]))
        error = ratios.std(ddof=1) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
        lines.append(
            f"ours / ForestDiffusion, seconds: {np.exp(ratios.mean()):.2f}, times or by {np.exp(error):.2f}, "
            f"geometric mean over tables; {sum(taken[OURS]) / sum(taken[FOREST]):.2f} of all seconds"
        )
    return "\n".join(lines)
