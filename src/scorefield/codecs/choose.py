"""Which codec fits which data, and which one a file describes."""

from __future__ import annotations

from typing import Any

from scorefield.codecs.array import ArrayCodec
from scorefield.codecs.base import Codec
from scorefield.codecs.image import ImageCodec
from scorefield.codecs.table import TableCodec
from scorefield.data.kinds import Data, Images, Table
from scorefield.errors import BundleError


def fit_codec(data: Data) -> Codec:
    """The codec for data of this kind, fitted to it."""
    if isinstance(data, Table):
        return TableCodec.fit(data)
    if isinstance(data, Images):
        return ImageCodec.fit(data)
    return ArrayCodec.fit(data)


def codec_from_json(fields: dict[str, Any]) -> Codec:
    """The codec whose `to_json` gave these fields."""
    match fields.get("kind"):
        case "table":
            return TableCodec.from_json(fields)
        case "array":
            return ArrayCodec.from_json(fields)
        case "images":
            return ImageCodec.from_json(fields)
        case kind:
            raise BundleError(f"codec of unknown kind {kind!r}; known are table, array and images")
