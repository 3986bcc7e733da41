"""What every codec does: encode data to rows of R^d, decode them to the form of the data, and weigh the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from scorefield.data.kinds import Data
from scorefield.errors import OptionError

_LISTED = 5  # columns that a refusal names


@dataclass(frozen=True, eq=False)
class Numbers:
    """What the numbers of an encoded row are.

    Args:
        names: of each column, or one for all numbers.
        gridded: (*shape) bool, whether it lies on a grid, so that a value stands for a bin.
        integer: (*shape) bool, whether it is declared an integer.
        log_width: (*shape) float64, the log of its bin's width in units of the data, 0 where there are none. Where a
            column is printed with few digits, bins of large values are wider.
    """

    names: tuple[str, ...]
    gridded: Tensor
    integer: Tensor
    log_width: Tensor

    def log_volume(self) -> float:
        """Σ log δ of a row's bins in nats: log P(row) is the log of the mean density in them per data unit, plus this.

        Raises:
            OptionError: unless all numbers are declared integers, since others have no probability, only a density.
        """
        if not bool(self.integer.all()):
            whole = self.integer.reshape(-1).tolist()
            others = list(
                dict.fromkeys(repr(name) for name, is_one in zip(self.names, whole, strict=False) if not is_one)
            )
            more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
            raise OptionError(
                f"bits/dim is for integers, which have a probability, but not integers are "
                f"{', '.join(others[:_LISTED])}{more}: ask for nats, or store them as an integer type if they are"
            )
        return float(self.log_width.sum())


class Codec(Protocol):
    """An invertible map between data and (n, *shape) float32."""

    kind: str  # of data: "table", "array" or "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one encoded row."""
        ...

    @property
    def resolution(self) -> float | None:
        """The step of the grid that encoded values lie on, or None for continuous values."""
        ...

    @property
    def steps(self) -> tuple[float, ...] | None:
        """The step of each number of an encoded row, or one for all of them; None where some are continuous."""
        ...

    @property
    def numbers(self) -> Numbers:
        """What each number of an encoded row is."""
        ...

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values seen, broadcasting over rows (*shape)."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What fitting found, each a sentence that the user should see."""
        ...

    def encode(self, data: Data) -> Tensor:
        """(n, *shape) float32.

        Raises:
            DataError: for data of another form than the codec was fitted to.
        """
        ...

    def decode(self, x: Tensor) -> Data:
        """Data of the form that the codec was fitted to, from (n, *shape)."""
        ...

    def spread(self, data: Data, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoded rows, each value moved within its bin, and what the change of units adds to a log density:

            x = encode(data + (u − ½) δ),   log p(data + (u − ½) δ) = log p(x) + log_jacobian,
            log_jacobian = log |det ∂encode/∂data| there

        with δ the width of each value's bin in units of the data, and 0 for continuous values.

        Args:
            data: n rows.
            u: (n, *shape) in [0, 1), laid out as encoded rows are; None moves nothing. x may be differentiated in it.

        Returns:
            x (n, *shape) float64 and log_jacobian (n,) float64, nats.

        Raises:
            DataError: as `encode`.
        """
        ...

    def unusable(self, data: Data) -> dict[int, str]:
        """Why rows of data have no density: not finite, missing, or other than what was constant; by row from 0.

        Raises:
            DataError: for data of another form altogether.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `codec_from_json` makes it again."""
        ...

    def describe(self) -> list[str]:
        """A line for each part, for `inspect`."""
        ...
