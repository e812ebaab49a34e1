"""Which keys came before, in eight bytes a key."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def hashed(key: str) -> int:
    """64 bits of a key, the same in every process."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")


class Seen:
    """A set of keys by their hashes, which grows by batches.

    Two of five million keys share a hash with a probability of 7e-7; a fact is lost then.
    """

    def __init__(self) -> None:
        # Sorted, and each at least twice as long as the next.
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, hashes: Sequence[int]) -> list[bool]:
        """Which of them are new, in the batch too; the first of equal ones is."""
        batch = np.array(hashes, dtype=np.uint64)
        found = np.zeros(len(batch), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, batch), len(run) - 1)
            found |= run[places] == batch
        firsts = np.zeros(len(batch), dtype=bool)
        firsts[np.unique(batch, return_index=True)[1]] = True
        new = firsts & ~found
        if new.any():
            self._runs.append(np.sort(batch[new]))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([before, last])))
        return [bool(one) for one in new]
