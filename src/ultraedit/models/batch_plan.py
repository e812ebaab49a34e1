"""How many tokens a batch has: decided once, from the memory that is free."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch
from transformers import PreTrainedModel

from ultraedit.encoding.plan import MOST_PARTS
from ultraedit.models.memory import NO_COST, TOKENS_PER_EDIT, Cost, edit_memory

MOST_TOKENS = {"cpu": 2048, "cuda": 8192}
LEAST_TOKENS = 256
# Of what is free; the rest is for longer texts than the estimate has.
SHARE = 0.8
# Edits of a turn, as the command line makes them.
TURN = 100


def plan_batch_tokens(
    model: PreTrainedModel,
    names: Sequence[str],
    cost: Cost = NO_COST,
    stored: torch.dtype | None = None,
) -> int:
    """Padded tokens of a batch: the most that fit, halved from the device's best.

    Editors record it: resumed elsewhere they go on with the same batches.

    Args:
        model: Loaded.
        names: The edited modules; none for a model that is only asked.
        cost: Of the method, for a turn of the command line.
        stored: See `edit_memory`.
    """
    holder = model.get_submodule(names[0]) if names else model.get_input_embeddings()
    device: torch.device = holder.weight.device
    tokens = MOST_TOKENS.get(device.type, MOST_TOKENS["cpu"])
    free = free_bytes(device)
    while names and tokens > LEAST_TOKENS:
        # As many edits as fill a batch, should turns be that large.
        edits = max(TURN, MOST_PARTS * tokens // TOKENS_PER_EDIT)
        peak = edit_memory(model, names, edits, device.type, tokens, cost, stored)["peak"]
        if peak <= SHARE * free:
            break
        tokens //= 2
    return tokens


def free_bytes(device: torch.device) -> int:
    """Memory that could be given out on the device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)
