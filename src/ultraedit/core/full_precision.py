"""float32 products in float32, whatever the process allows its models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, no product of float32 matrices is rounded to TF32; also a decorator.

    TF32 keeps ten bits of a factor. Where products are accumulated, inverted or solved, that is
    what decides, so it is refused there, and allowed again after.
    """
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
