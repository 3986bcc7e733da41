"""Normals and uniforms as functions of (seed, stream, step, draw, row, element), whatever was drawn before.

The generator is Philox4×64 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which
numpy runs in C. Its key is (seed, stream), its counter (row and element, step, draw):

    bits(seed, stream, step, draw, row, element) = Philox(key=(seed, stream), counter=(offset, 0, step, draw))   (1)
    offset = row · words + element // 2        counted in 64-bit words, `words` of them a row                    (2)
    z = √(−2 log u₁) · (cos 2πu₂, sin 2πu₂)    two normals from each word (Box & Muller 1958)                    (3)

Row i is thus the same at any batch size, chunk size, number of processes and moment of resume. A row reads only its own
words, so that a range of rows is one run of the counter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WORDS_A_BLOCK = 4  # Philox4×64 makes four 64-bit words from one value of its counter


def philox_words(key: tuple[int, int], counter: tuple[int, int, int, int], count: int) -> np.ndarray:
    """The first `count` 64-bit words of Philox4×64-10 from this counter on.

    Args:
        key: two 64-bit words.
        counter: four 64-bit words, least significant first, of the first block.
        count: number of words.

    Returns:
        (count,) uint64.
    """
    # numpy adds one to the counter before each block, so it starts one below.
    value = sum(word << (64 * place) for place, word in enumerate(counter))
    value = (value - 1) % (1 << 256)
    below = [(value >> (64 * place)) & 0xFFFFFFFFFFFFFFFF for place in range(4)]
    generator = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=np.array(below, dtype=np.uint64))
    words: np.ndarray = generator.random_raw(count)
    return words


@dataclass(frozen=True)
class Stream:
    """A named, seeded source of randomness, such as Stream(0, "training noise").

    Args:
        seed: any integer ≥ 0.
        name: what the numbers are for; two names never share numbers.
    """

    seed: int
    name: str

    def __post_init__(self) -> None:
        digest = hashlib.sha256(f"{self.seed}:{self.name}".encode()).digest()
        key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
        object.__setattr__(self, "_key", key)

    def normal(
        self,
        rows: range | int,
        shape: Sequence[int],
        *,
        step: int = 0,
        draw: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standard normals, (3), for a range of rows.

        Args:
            rows: the rows wanted, or a number n meaning range(n).
            shape: the shape of one row.
            step, draw: further parts of the key, as the step of a sampler and the draw within it.
            dtype: of the result; the numbers agree between types to rounding.
            device: where the result lies; the numbers are made on the processor, so that they agree between devices.

        Returns:
            (len(rows), *shape).
        """
        size = math.prod(shape)
        bits = self._bits(rows, size, step, draw)
        work = torch.float64 if dtype == torch.float64 else torch.float32
        u = bits.view(np.uint32).reshape(*bits.shape, 2)
        # A half is added to keep u off zero: the largest normal is √(2·33·log 2) = 6.8.
        u1 = torch.from_numpy(u[..., 0].astype(np.float64 if work == torch.float64 else np.float32))
        u2 = torch.from_numpy(u[..., 1].astype(np.float64 if work == torch.float64 else np.float32))
        radius = u1.add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = u2.mul_(2 * math.pi * 2.0**-32)
        pairs = torch.empty(*radius.shape, 2, dtype=work)
        torch.mul(radius, angle.cos(), out=pairs[..., 0])
        torch.mul(radius, angle.sin(), out=pairs[..., 1])
        return pairs.flatten(1)[:, :size].reshape(len(bits), *shape).to(device=device, dtype=dtype)

    def uniform(
        self,
        rows: range | int,
        shape: Sequence[int] = (),
        *,
        step: int = 0,
        draw: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Uniforms on (0, 1), never 0 or 1 in float64, for a range of rows; arguments as for `normal`."""
        size = math.prod(shape)
        bits = self._bits(rows, 2 * size, step, draw)
        # 52 bits and a half: exactly representable, symmetric about ½.
        u = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        return torch.from_numpy(u)[:, :size].reshape(len(bits), *shape).to(device=device, dtype=dtype)

    def permutation(self, count: int, *, step: int = 0) -> np.ndarray:
        """A random order of range(count), (count,) int64: the rank of one keyed word a row."""
        return np.argsort(self._bits(count, 2, step, 0)[:, 0], kind="stable")

    def _bits(self, rows: range | int, size: int, step: int, draw: int) -> np.ndarray:
        """The words of a range of rows, (1) and (2): `size` 32-bit halves a row, rounded up; (len(rows), words)."""
        rows = range(rows) if isinstance(rows, int) else rows
        if rows.step != 1:
            raise ValueError(f"rows must be consecutive, got {rows}")
        words = max(1, (size + 1) // 2)
        first = rows.start * words
        block, skip = divmod(first, _WORDS_A_BLOCK)
        counter = (block & 0xFFFFFFFFFFFFFFFF, block >> 64, step, draw)
        run = philox_words(self._key, counter, skip + len(rows) * words)  # type: ignore[attr-defined]
        return run[skip:].reshape(len(rows), words)


@dataclass(eq=False)  # not frozen, which would take half a microsecond of every step
class Noise:
    """The normals of one step of a sampler for its range of rows.

    Args:
        stream: the sampler's stream.
        rows: which rows of the whole request these are.
        step: the number of the step.
    """

    stream: Stream
    rows: range
    step: int

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        """Standard normals shaped, typed and placed like x; each `draw` of a step is independent of the others."""
        return self.stream.normal(self.rows, x.shape[1:], step=self.step, draw=draw, dtype=x.dtype, device=x.device)
