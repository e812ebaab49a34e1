"""The dtype that a model computes in with `dtype="auto"`."""

from __future__ import annotations

import torch

from ultraedit.models.batch_plan import free_bytes

# Instructions that multiply bfloat16 matrices, by their names in `torch.cpu.get_capabilities`.
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
# Of the free memory, what float32 weights may take; the rest is for the pass and the method.
SHARE = 0.5


def compute_dtype(stored: torch.dtype, device: torch.device, parameters: int) -> torch.dtype:
    """float32 on a CPU, unless the checkpoint is in bfloat16 and the CPU has instructions for it.

    The choice is read off the processor and never timed: a timed choice can differ between two
    runs of one command, and then so do their weights.

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
    if stored == torch.bfloat16 and multiplies_bfloat16():
        return stored
    return torch.float32


def multiplies_bfloat16() -> bool:
    """Whether this processor has such instructions; False where torch is too old to tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BFLOAT16)
