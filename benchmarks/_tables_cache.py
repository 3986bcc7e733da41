"""Results kept in a folder as JSON, and drawn rows as Parquet beside them, by method, table, split and settings.

A peer is run again only when its settings, the rows or the number of sets change; the measures of its rows only when
`VERSION` of the measures does. What is ours is never kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

SET = "set number"  # the column of kept rows that tells sets apart


@dataclass(frozen=True)
class Drawn:
    """What a method made.

    Args:
        sets: tables of rows that were drawn.
        seconds: of the processor, to fit and to draw the first set.
    """

    sets: list[pd.DataFrame]
    seconds: float


@dataclass(frozen=True)
class Cache:
    """A folder of results, or none.

    Args:
        folder: where they lie; nothing is kept without.
    """

    folder: Path | None

    def drawn(self, key: Mapping[str, Any], make: Callable[[], Drawn]) -> Drawn:
        """Rows that are kept under this key, or made and kept."""
        if self.folder is None:
            return make()
        place = self._place(key)
        if place.with_suffix(".parquet").exists() and place.with_suffix(".json").exists():
            kept = pd.read_parquet(place.with_suffix(".parquet"))
            sets = [part.drop(columns=SET).reset_index(drop=True) for _, part in kept.groupby(SET)]
            return Drawn(sets, json.loads(place.with_suffix(".json").read_text())["seconds"])
        made = make()
        numbered = [part.assign(**{SET: number}) for number, part in enumerate(made.sets)]
        pd.concat(numbered).to_parquet(place.with_suffix(".parquet"), index=False)
        place.with_suffix(".json").write_text(json.dumps({"key": key, "seconds": made.seconds}, indent=1) + "\n")
        return made

    def figures(self, key: Mapping[str, Any], make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures that are kept under this key, or made and kept."""
        if self.folder is None:
            return make()
        place = self._place(key).with_suffix(".json")
        if place.exists():
            return json.loads(place.read_text())["figures"]
        figures = make()
        place.write_text(json.dumps({"key": key, "figures": figures}, indent=1) + "\n")
        return figures

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether a result is kept under this key."""
        return self.folder is not None and self._place(key).with_suffix(".json").exists()

    def _place(self, key: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
        told = "-".join(str(key[part]).replace(" ", "_") for part in ("what", "method", "table", "split"))
        return self.folder / f"{told}-{digest}.none"
