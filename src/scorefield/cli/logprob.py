"""scorefield logprob: how likely each row is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from scorefield.scoring import Scores

_LISTED = 5  # rows without a density that are named


def logprob(
    run: Annotated[Path, typer.Argument(help="folder that fit made")],
    data: Annotated[str, typer.Argument(help="rows like those of training: file, folder, toy:NAME or sklearn:NAME")],
    out: Annotated[Path, typer.Option(help="file (.csv .parquet .npz) for log_prob and std_error of each row, nats")],
    tolerance: Annotated[float, typer.Option(help="about the solver's error, nats")] = 1e-3,
    probes: Annotated[int | None, typer.Option(help="random probes of the divergence, 0: exact; by size")] = None,
    draws: Annotated[int | None, typer.Option(help="draws within the bins of rounded values; by size")] = None,
    variational: Annotated[bool, typer.Option("--variational", help="fit the draws to each row")] = False,
    noise: Annotated[float | None, typer.Option(help="σ/α of another level than the lowest")] = None,
    bits: Annotated[bool, typer.Option("--bits", help="a column bits_per_dim, for integers")] = False,
    percentile: Annotated[bool, typer.Option("--percentile", help="a column: % of held-out rows less likely")] = False,
    anomaly: Annotated[bool, typer.Option("--anomaly", help="a column: share of held-out rows likelier")] = False,
    against: Annotated[str | None, typer.Option(metavar="DATA", help="rank by these, not by held-out rows")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="NaN for rows without a density, and go on")] = False,
    seed: Annotated[int, typer.Option(min=0, help="of probes and draws")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Write how likely each row of DATA is under the model in RUN, in nats of the data as given."""
    import time

    from scorefield.api import load
    from scorefield.cli.console import Console
    from scorefield.data.read import read
    from scorefield.data.write import check_target
    from scorefield.errors import OptionError
    from scorefield.scoring import Scoring

    check_target(out, "table")
    if out.suffix.lower() == ".npy":
        raise OptionError(f"--out {out}: .npy has no place for named columns, expected .csv, .parquet or .npz")
    for source in (data, against):
        if source is not None and _same(out, source):
            raise OptionError(f"--out {out}: it would take the place of the rows that are read, choose another file")
    ranked = percentile or anomaly
    if against is not None and not ranked:
        raise OptionError("--against has rows to rank by: with --percentile, --anomaly or both")
    if ranked and against is None and noise is not None:
        raise OptionError(
            "the held-out rows that a run keeps are ranked at its lowest level: with --noise name others with --against"
        )
    how = Scoring(tolerance, probes, draws, variational, noise, seed)
    bundle = load(run, device)
    if bits:
        bundle.features.codec.numbers.log_volume()  # refuses what are no integers
    if ranked and against is None and bundle.reference is None:
        raise OptionError(
            f"{run} keeps no held-out rows to rank against, as training was short or few rows were held out: name some "
            "with --against DATA"
        )
    rows = read(data)
    with Console() as console:
        reference = bundle.reference
        if against is not None:
            console.say(f"{against}: the rows to rank against")
            reference = bundle.log_prob(against, how, skip_bad=skip_bad, on_progress=console.drawing("scored")).log_prob
        begun = time.perf_counter()
        scores = bundle.log_prob(rows, how, skip_bad=skip_bad, on_progress=console.drawing("scored"))
        for row, reason in list(scores.unusable.items())[:_LISTED]:
            console.say(f"row {row + 1} gets NaN: {reason}")
        if len(scores.unusable) > _LISTED:
            console.say(f"and {len(scores.unusable) - _LISTED} more rows without a density")
    taken = time.perf_counter() - begun
    columns = _columns(scores, reference if ranked else None, bits, percentile, anomaly)
    _write(columns, out)
    good = max(1, len(rows) - len(scores.unusable))
    print(f"{out}: {_summary(scores, bits)}; {taken:.1f} s, {1000 * taken / good:.3g} ms a row")


def _same(out: Path, source: str) -> bool:
    """Whether a file to write is one that is read."""
    try:
        return out.samefile(source)
    except (OSError, ValueError):
        return False  # one of them is not there, or no path at all


def _columns(
    scores: Scores, reference: Tensor | None, bits: bool, percentile: bool, anomaly: bool
) -> dict[str, Tensor]:
    """What is written, (n,) each."""
    from scorefield.scoring import rank

    columns = {"log_prob": scores.log_prob, "std_error": scores.std_error}
    if bits:
        columns["bits_per_dim"] = scores.bits_per_dim
    if reference is not None:
        below = rank(scores.log_prob, reference)
        if percentile:
            columns["percentile"] = 100 * below
        if anomaly:
            columns["anomaly"] = 1 - below
    return columns


def _write(columns: dict[str, Tensor], out: Path) -> None:
    from scorefield.data.write import write, write_arrays

    arrays = {name: values.numpy() for name, values in columns.items()}
    if out.suffix.lower() == ".npz":
        write_arrays(arrays, out)
        return
    import pyarrow as pa

    from scorefield.data.kinds import Table

    write(Table(pa.table({name: pa.array(values) for name, values in arrays.items()}), source="log p"), out)


def _summary(scores: Scores, bits: bool) -> str:
    """Mean log p of the rows that have one, with its standard error over rows, and in bits where that is asked for."""
    values = scores.log_prob[~scores.log_prob.isnan()]
    if not len(values):
        return "no row has a density"
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float(scores.std_error.nanmean())
    text = f"log p {float(values.mean()):.4g} ± {spread:.2g} nats a row on average over {len(values)} rows"
    if bits:
        text += f", {float(scores.bits_per_dim.nanmean()):.4g} bits/dim"
    return f"{text}, each known to {float(scores.std_error.nanmedian()):.2g}"
