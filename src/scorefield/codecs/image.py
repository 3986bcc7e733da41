"""Images of integers ↔ centred reals: x = 2·pixel/maximum − 1 − mean, back by rounding to the nearest bin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.data.kinds import Data, Images
from scorefield.errors import DataError


@dataclass(frozen=True)
class ImageCodec:
    """Images of one size and mode.

    Args:
        height, width, channels: of each image.
        mode: "L", "RGB", "RGBA" or "I;16".
        maximum: the value of white; zero becomes −1 and white 1, before the mean is taken off.
        mean: of all elements on that scale, so that σ_data is their root mean square.
        layout: how the user's own array lay, "" when it was no array.
        notes: what fitting found.
    """

    height: int
    width: int
    channels: int
    mode: str
    maximum: int
    mean: float = 0.0
    layout: str = ""
    notes: tuple[str, ...] = ()
    kind = "images"

    @staticmethod
    def fit(images: Images) -> ImageCodec:
        """Take size, mode and range from images.

        Raises:
            DataError: when all images are equal.
        """
        _, height, width, channels = images.pixels.shape
        if all(np.array_equal(images.pixels[0], image) for image in images.pixels[1:]):
            raise DataError(f"{images.source}: all {len(images)} images are equal, there is nothing to learn")
        mean = 2 * float(images.pixels.mean(dtype=np.float64)) / images.maximum - 1
        return ImageCodec(height, width, channels, images.mode, images.maximum, mean, images.layout)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)

    @property
    def resolution(self) -> float | None:
        return 2 / self.maximum

    @property
    def steps(self) -> tuple[float, ...] | None:
        return (2 / self.maximum,)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(-1.0 - self.mean), torch.tensor(1.0 - self.mean)

    def encode(self, data: Data) -> Tensor:
        if not isinstance(data, Images):
            raise DataError(f"the model was trained on images, got {data.kind} from {data.source}")
        found = (*data.pixels.shape[1:], data.mode, data.maximum)
        expected = (self.height, self.width, self.channels, self.mode, self.maximum)
        if found != expected:
            raise DataError(
                f"{data.source}: images have (height, width, channels, mode, maximum) {found}, expected {expected}"
            )
        pixels = torch.from_numpy(data.pixels.astype(np.float32)).movedim(-1, 1)
        return pixels.mul_(2 / self.maximum).sub_(1 + self.mean).contiguous()

    def decode(self, x: Tensor) -> Images:
        pixels = (
            ((x.float().cpu() + (1 + self.mean)) * (self.maximum / 2)).round_().clamp_(0, self.maximum).movedim(1, -1)
        )
        dtype = np.uint8 if self.maximum < 256 else np.uint16
        return Images(
            np.ascontiguousarray(pixels.numpy().astype(dtype)),
            self.mode,
            maximum=self.maximum,
            layout=self.layout,
            source="decoded images",
        )

    def log_jacobian(self, data: Data) -> Tensor:
        """For pixels as real numbers: D log(2/maximum), the same for every row."""
        each = self.height * self.width * self.channels * math.log(2 / self.maximum)
        return torch.full((len(data),), each, dtype=torch.float64)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "mode": self.mode,
            "maximum": self.maximum,
            "mean": self.mean,
            "layout": self.layout,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> ImageCodec:
        """The codec whose `to_json` gave these fields."""
        values = {name: value for name, value in fields.items() if name not in ("kind", "notes")}
        return ImageCodec(**values, notes=tuple(fields["notes"]))

    def describe(self) -> list[str]:
        return [
            f"images {self.height}×{self.width}, mode {self.mode}, integers 0 to {self.maximum} "
            f"as [−1, 1], less their mean {self.mean:.4f}"
        ]
