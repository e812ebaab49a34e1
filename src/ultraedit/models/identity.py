"""A digest of a loaded model's values, under which its measurements are cached."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Each holds one parameter on the CPU.
WORKERS = 4


def model_digest(model: PreTrainedModel) -> str:
    """64 hexadecimal digits over the model's structure, parameters and buffers.

    Of what is not in memory as plain numbers (quantised, or offloaded to a disk) name, shape and
    kind count, and where the model was loaded from.
    """
    whole = hashlib.sha256(type(model).__name__.encode())
    named = [*model.named_parameters(), *model.named_buffers()]
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        for (name, tensor), digest in zip(named, pool.map(_digest, named), strict=True):
            whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + digest)
            if not digest:
                whole.update(f"{type(tensor).__name__} of {model.name_or_path}".encode())
    return whole.hexdigest()


def _digest(named: tuple[str, Tensor]) -> bytes:
    """Of a tensor's bytes; nothing where it has none here."""
    _, tensor = named
    if type(tensor) not in (nn.Parameter, torch.Tensor) or tensor.device.type == "meta":
        return b""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).digest()
