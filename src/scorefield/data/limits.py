"""How much a file may take in memory: caps checked from headers, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from scorefield.errors import DataError

_SMALL = 64 << 20  # below this much decoded memory no ratio is suspicious


@dataclass(frozen=True)
class Limits:
    """Caps on what reading may take; every one can be set.

    Args:
        bytes: the most memory that one data set may take once decoded.
        pixels: the most pixels that one image may have.
        expansion: the most that a compressed file may grow, as a ratio, once it decodes to more than 64 MiB.
        line_bytes: the longest line of a CSV file.
    """

    bytes: int = 32 << 30
    pixels: int = 1 << 26
    expansion: float = 200.0
    line_bytes: int = 64 << 20

    def check_bytes(self, decoded: int, stored: int | None, what: str) -> None:
        """Refuse what would take too much memory.

        Args:
            decoded: bytes after decoding, as a header claims or as counted so far.
            stored: bytes on disk where the form is compressed, else None.
            what: the place, for the message.

        Raises:
            DataError: over `bytes`, or grown by more than `expansion`.
        """
        if decoded > self.bytes:
            raise DataError(
                f"{what}: decodes to {human(decoded)}, more than the limit of {human(self.bytes)} (Limits.bytes)"
            )
        if stored is not None and decoded > _SMALL and decoded > self.expansion * max(stored, 1):
            raise DataError(
                f"{what}: {human(stored)} would grow to {human(decoded)}, {decoded / max(stored, 1):.0f} times, "
                f"more than {self.expansion:g} times (Limits.expansion): it looks like a decompression bomb"
            )

    def check_pixels(self, width: int, height: int, what: str) -> None:
        """Refuse an image with more pixels than `pixels`; the arguments are in pixels."""
        if width * height > self.pixels:
            raise DataError(
                f"{what}: {width}×{height} is {width * height} pixels, "
                f"more than the limit of {self.pixels} (Limits.pixels)"
            )


def human(count: int) -> str:
    """A number of bytes as people write it, such as 1.5 GiB."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
