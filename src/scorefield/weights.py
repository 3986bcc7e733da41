"""The tensors of a bundle: refused before memory is taken where a header lies, and put into a model all or none."""

from __future__ import annotations

import struct
from pathlib import Path

from torch import Tensor

from scorefield.errors import BundleError
from scorefield.model import NetworkDenoiser


def check_header(content: bytes, path: Path) -> None:
    """Refuse a safetensors file whose header claims more than the file holds, before memory is taken.

    Raises:
        BundleError: with the file and what it claims.
    """
    if len(content) < 8:
        raise BundleError(f"{path}: {len(content)} bytes are no safetensors file")
    (length,) = struct.unpack("<Q", content[:8])
    if length > len(content) - 8:
        raise BundleError(f"{path}: its header claims {length} bytes, the file has {len(content)}")


def load_weights(denoiser: NetworkDenoiser, tensors: dict[str, Tensor], folder: Path) -> None:
    """Put weights into a model, all or none.

    Raises:
        BundleError: with a list of those that are missing, unexpected or of another shape or type.
    """
    expected = denoiser.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    other = [
        f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}, expected {tuple(value.shape)} {value.dtype}"
        for name, value in expected.items()
        if name in tensors and (tensors[name].shape != value.shape or tensors[name].dtype != value.dtype)
    ]
    if missing or unexpected or other:
        raise BundleError(
            f"{folder}: weights do not fit: missing {missing}, unexpected {unexpected}, different {other}"
        )
    denoiser.load_state_dict(tensors)
