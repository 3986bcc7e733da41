"""Columns that are exact linear functions of each other, whose joint density is infinite on a plane and else zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FLAT = 1e-10  # of the largest variance: the square of what rounding to float32 leaves is far below
_INVOLVED = 1e-3  # share of a column in the flat directions
_LISTED = 10


def degenerate(covariance: Tensor, names: Sequence[str]) -> str | None:
    """A sentence that names the columns which are linear functions of each other; None where there are none.

    Args:
        covariance: of encoded rows, (D, D); only columns that are continuous, since rounded ones stand for bins, which
            have room to differ.
        names: of these columns, D of them.
    """
    if len(names) < 2:
        return None
    variances, directions = torch.linalg.eigh(covariance.double())
    flat = variances <= _FLAT * variances[-1]
    if not bool(flat.any()):
        return None
    share = directions[:, flat].square().sum(1)
    found = [name for name, part in zip(names, share.tolist(), strict=True) if part > _INVOLVED]
    shown = ", ".join(repr(name) for name in found[:_LISTED])
    shown += f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    many = int(flat.sum())
    return (
        f"columns {shown} are linear functions of each other, so their joint density is infinite: leave "
        f"{many} of them out with --columns"
    )
