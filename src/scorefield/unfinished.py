"""What `inspect` says of a run whose training has not finished: its data, and where its log and checkpoints are."""

from __future__ import annotations

from pathlib import Path

from scorefield.errors import BundleError
from scorefield.storage import read_json
from scorefield.training.journal import read_journal


def describe_unfinished(folder: Path) -> list[str]:
    """Lines on a run that was begun: what from, the last step and losses that were written down, the last checkpoint.

    Raises:
        BundleError: when fit.json is not as `fit` wrote it.
    """
    kept = read_json(folder / "fit.json")
    try:
        lines = [
            f"{folder}: training has not finished here, the same `scorefield fit` goes on with it",
            f"learning from {kept['data']['description']}",
            f"SHA-256 of the data {kept['data']['fingerprint']}",
            f"recipe {kept['recipe']['name']}, seed {kept['seed']}",
        ]
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{folder}: training has not finished here, and fit.json is not as `fit` wrote it: {error!r}"
        ) from error
    log = folder / "metrics.jsonl"
    steps = [line for line in read_journal(log) if "step" in line] if log.is_file() else []
    if steps:
        lines.append(f"last logged: step {steps[-1]['step']} after {_of(steps[-1], 'seconds')} s")
        lines.append(f"loss {_of(steps[-1], 'loss')}")
    else:
        lines.append("no step is logged yet")
    measured = [line for line in steps if isinstance(line.get("held_out"), dict)]
    if measured:
        lines.append(f"held-out loss {_of(measured[-1]['held_out'], 'mean')} at step {measured[-1]['step']}")
    saved = sorted(place.name for place in (folder / "checkpoints").glob("step-*"))
    lines.append(f"last checkpoint: {saved[-1]}" if saved else "no checkpoint yet: it would begin anew")
    return lines


def _of(line: dict[str, object], name: str) -> str:
    """A number of a line of the log, which may lack it or hold none where it was not finite."""
    value = line.get(name)
    return f"{value:.4g}" if isinstance(value, int | float) else "not finite"
