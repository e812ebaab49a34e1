"""Exact float32 matrix products, whatever TF32 setting the process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, no product of float32 matrices is rounded to TF32; also a decorator.

    TF32 keeps ten bits of a factor, which is too few where products are accumulated, inverted or
    solved. The setting before is restored afterwards.
    """
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
