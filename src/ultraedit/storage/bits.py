"""Tensors as the bytes they are stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same bytes; unlike `==`, a NaN equals itself."""
    if first is second:
        return True
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(as_bytes(first), as_bytes(second))


def as_bytes(tensor: Tensor) -> Tensor:
    """The tensor's bytes in row-major order, as uint8 on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over keys, dtypes, shapes and bytes, in the order of the keys."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(as_bytes(tensor).numpy().data)
    return digest.hexdigest()
