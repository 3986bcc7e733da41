"""Images of integers ↔ centred reals: x = 2·pixel/maximum − 1 − mean, back by rounding to the nearest bin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.base import Numbers
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
    def numbers(self) -> Numbers:
        yes, none = torch.ones(self.shape, dtype=torch.bool), torch.zeros(self.shape, dtype=torch.float64)
        return Numbers(("all pixels",), yes, yes, none)  # bins of integers are 1 wide, whose log is 0

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(-1.0 - self.mean), torch.tensor(1.0 - self.mean)

    def encode(self, data: Data) -> Tensor:
        return self._scaled(torch.from_numpy(self._checked(data).pixels.astype(np.float32)).movedim(-1, 1)).contiguous()

    def spread(self, data: Data, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(self._checked(data).pixels.astype(np.float64)).movedim(-1, 1).contiguous()
        # Pixels as real numbers: every one is scaled alike, so that rows share their log-determinant.
        each = self.height * self.width * self.channels * math.log(2 / self.maximum)
        moved = pixels if u is None else pixels + (u.double() - 0.5)
        return self._scaled(moved), torch.full((len(data),), each, dtype=torch.float64)

    def unusable(self, data: Data) -> dict[int, str]:
        self._checked(data)
        return {}

    def _scaled(self, pixels: Tensor) -> Tensor:
        """From integers to the scale of the code, in place where no derivative is asked for."""
        if pixels.requires_grad:
            return pixels * (2 / self.maximum) - (1 + self.mean)
        return pixels.mul_(2 / self.maximum).sub_(1 + self.mean)

    def _checked(self, data: Data) -> Images:
        """The images; refuses those of another form."""
        if not isinstance(data, Images):
            raise DataError(f"the model was trained on images, got {data.kind} from {data.source}")
        found = (*data.pixels.shape[1:], data.mode, data.maximum)
        expected = (self.height, self.width, self.channels, self.mode, self.maximum)
        if found != expected:
            raise DataError(
                f"{data.source}: images have (height, width, channels, mode, maximum) {found}, expected {expected}"
            )
        return data

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
