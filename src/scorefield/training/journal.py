"""metrics.jsonl: one JSON object a line, appended; a torn last line is tolerated, later lines are cut on resume."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

from scorefield.errors import BundleError
from scorefield.storage import write_text


class Journal:
    """The log of a run.

    Args:
        path: of metrics.jsonl; None logs nothing.
        after: step that training goes on from; lines of later steps are of a run that was cut off, and are removed.
    """

    def __init__(self, path: Path | None, after: int = 0) -> None:
        self.path = path
        if path is not None and path.exists():
            try:
                kept = [line for line in read_journal(path) if line.get("step", 0) <= after]
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            except (OSError, BundleError) as error:
                self._give_up(error)

    def write(self, fields: dict[str, Any]) -> None:
        """Append a line; when the disk refuses, training goes on after one warning."""
        if self.path is None:
            return
        plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in fields.items()}
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(plain) + "\n")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        warnings.warn(f"{self.path} cannot be written, going on without it: {error}", stacklevel=3)
        self.path = None


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a torn last line is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
