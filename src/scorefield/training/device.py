"""Where to compute and in which precision."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from scorefield.errors import OptionError

_WORTH_IT = 1.5  # bfloat16 must be this much faster, or float32 stays


def pick_device(name: str) -> torch.device:
    """The device called "cpu", "cuda" or "auto" (CUDA where there is one).

    Raises:
        OptionError: for another name, or "cuda" where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: this machine has no CUDA device; use cpu or auto")
    if name not in ("cpu", "cuda"):
        raise OptionError(f"--device {name}: expected cpu, cuda or auto")
    return torch.device(name)


def pick_precision(device: torch.device) -> tuple[str, str]:
    """ "bfloat16" where it is clearly faster, else "float32"; with a sentence that says why.

    Processors with AMX or AVX-512 BF16 are several times faster in it, others slower: a matrix product is timed.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "the GPU has it") if fast else ("float32", "the GPU has no bfloat16")
    ratio = _product_seconds(torch.float32) / _product_seconds(torch.bfloat16)
    reason = f"a matrix product in bfloat16 is {ratio:.1f} × as fast here"
    return ("bfloat16" if ratio > _WORTH_IT else "float32"), reason


def _product_seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    return min(_seconds(lambda: a @ b) for _ in range(7))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
