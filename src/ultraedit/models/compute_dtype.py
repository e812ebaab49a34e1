"""The dtype that a model computes in with `dtype="auto"`."""

from __future__ import annotations

import time

import torch

from ultraedit.models.batch_plan import free_bytes

# One side of a measured product: an MLP of a small model over a few hundred tokens.
TOKENS, WIDTH, ROUNDS = 128, 768, 7
# Of the free memory, what float32 weights may take; the rest is for the pass and the method.
SHARE = 0.5


def compute_dtype(stored: torch.dtype, device: torch.device, parameters: int) -> torch.dtype:
    """float32 on a CPU, unless the checkpoint is in bfloat16 and the CPU is much faster with that.

    Many processors have no instructions for bfloat16, and hardly any for float16: without them
    a product takes several times as long as in float32, and is less exact.

    Args:
        stored: The dtype of the checkpoint.
        device: Where the model is to be.
        parameters: How many it has. If float32 does not fit in memory, the result is `stored`.
    """
    if device.type != "cpu" or stored not in (torch.bfloat16, torch.float16):
        return stored
    free = free_bytes(device)
    if free is not None and 4 * parameters > SHARE * free:
        return stored
    # A wide margin, so that the choice does not depend on what else the machine is doing.
    if stored == torch.bfloat16 and 2 * _seconds(stored) < _seconds(torch.float32):
        return stored
    return torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of one product; a few milliseconds in all."""
    left, right = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        left @ right
        taken.append(time.perf_counter() - began)
    return min(taken)
