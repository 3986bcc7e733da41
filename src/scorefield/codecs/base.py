"""What every codec does: encode data to rows of R^d, decode them to the form of the data, and weigh the change."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from scorefield.data.kinds import Data


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

    def log_jacobian(self, data: Data) -> Tensor:
        """log |det ∂encode/∂data| of each row in nats, (n,) float64: log p(data) = log p(encoded) + this."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `codec_from_json` makes it again."""
        ...

    def describe(self) -> list[str]:
        """A line for each part, for `inspect`."""
        ...
