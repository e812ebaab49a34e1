"""What an edit will need beside the model itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ultraedit.models.discover import PREFIX_BYTES

ANSWER_TOKENS_PER_EDIT = 5
TOKENS_PER_EDIT = 32
_UNITS = ("B", "kB", "MB", "GB", "TB")


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(d, e) of a linear map."""
    rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def edit_memory(model: nn.Module, names: Sequence[str], turn_size: int) -> dict[str, int]:
    """Bytes by purpose, for turns of `turn_size` edits of about five answer tokens each.

    Hidden states are what the frozen blocks made of the turn's texts; they are bounded.

    The activations of a batch come on top; they depend on the length of the prompts.

    The backup is what brings a refused turn back; rows are the inputs and gradients of the
    answer tokens of all modules, kept in float32 and solved in float64.
    """
    shapes = [shape_of(model.get_submodule(name)) for name in names]
    served = [model.get_submodule(name).weight for name in names]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    edited = sum(d * e for d, e in shapes)
    halves = sum(w.numel() for w in served if w.dtype != torch.float32)  # type: ignore[misc,operator,union-attr]
    n = turn_size * ANSWER_TOKENS_PER_EDIT
    width = model.config.get_text_config(decoder=True).hidden_size  # type: ignore[union-attr,operator]
    itemsize = max((w.element_size() for w in served), default=4)  # type: ignore[misc,operator,union-attr]
    return {
        "weights": weights,
        "hidden states": min(PREFIX_BYTES, turn_size * TOKENS_PER_EDIT * width * itemsize),
        "masters": 4 * halves,
        "backup": 4 * edited,
        "originals (cpu)": sum(w.numel() * w.element_size() for w in served),  # type: ignore[misc,operator,union-attr]
        "rows": 8 * n * sum(d + e for d, e in shapes),
        "solve": max(4 * d * e + 8 * (n * (d + 2 * e) + 2 * n * n) for d, e in shapes),
    }


def disk_cost(model: nn.Module, names: Sequence[str], turn_size: int) -> dict[str, int]:
    """Bytes that an edited model takes on disk beside its base, by purpose.

    Weights are written anew by every save; shifts stay for every turn that can be undone,
    and a snapshot for every fifty.
    """
    shapes = [shape_of(model.get_submodule(name)) for name in names]
    served = [model.get_submodule(name).weight for name in names]
    edited = 4 * sum(d * e for d, e in shapes)
    own = sum(w.numel() * w.element_size() for w in served)  # type: ignore[misc,operator,union-attr]
    halves = sum(w.numel() for w in served if w.dtype != torch.float32)  # type: ignore[misc,operator,union-attr]
    n = turn_size * ANSWER_TOKENS_PER_EDIT
    return {
        "edited weights, originals": 2 * own,
        "masters": 4 * halves,
        "history, per turn": sum(4 * n * (d + e) + 8 * n for d, e in shapes),
        "history, per snapshot": edited,
    }


def readable(size: int) -> str:
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
