"""Rows at chosen tokens: what modules see there, and what moving their outputs would do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch
from ultraedit.forward.capture import FLOAT16_SCALES, frozen
from ultraedit.forward.loss import loss_gradient
from ultraedit.forward.passes import Passes
from ultraedit.forward.positions import Spots, first_of


@dataclass(frozen=True)
class SpotRows:
    """Rows at some tokens of each text, text after text.

    Attributes:
        inputs: By module (n, d) float32, its inputs at the tokens.
        gradients: By module (n, e) float32, the gradients of each text's summed answer loss with
            respect to the module's outputs at the tokens.
        row_text: (n,) int64, which text each row belongs to; ascending.
        losses: (tokens,) float32 cross-entropy of the answer tokens of all texts.
        text: (tokens,) int64, which text each of them belongs to; ascending.
    """

    inputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    row_text: Tensor
    losses: Tensor
    text: Tensor


def capture_spots(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    places: Sequence[Sequence[int]],
    passes: Passes,
) -> SpotRows:
    """Rows of every module at some tokens of each text.

    Args:
        model: A causal language model, in evaluation mode.
        modules: Linear maps inside `model`, by name.
        batches: Padded texts; `Batch.index` says which text each row is.
        places: Of every text the tokens, at least one, counted from 0 in its own.
        passes: How the model is read. What it reads without a graph must lie before the places.

    Raises:
        UnsupportedModelError: a module is given only some of a text's tokens.
    """
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    order: list[int] = []
    texts, losses = [], []
    inputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    gradients: dict[str, list[Tensor]] = {name: [] for name in modules}
    for batch in batches:
        spots = Spots.of_texts(batch, places, passes.first_column(batch))
        with frozen(model), torch.enable_grad(), _watched(modules, spots) as seen:
            logits = passes(batch)
            labels = batch.labels[batch.answer_mask].to(logits.device)
            changes = [seen[name][1] for name in modules]
            for scale in FLOAT16_SCALES if half else (1.0,):
                values, slope = loss_gradient(logits, labels, scale)
                found = torch.autograd.grad(logits, changes, slope, retain_graph=half)
                if all(torch.isfinite(one).all() for one in found):
                    break
        for name, one in zip(modules, found, strict=True):
            inputs[name].append(seen[name][0].detach())
            gradients[name].append(one / scale)
        order += [index for index in batch.index.tolist() for _ in places[index]]
        texts.append(batch.index[batch.answer_mask.cpu().nonzero()[:, 0]])
        losses.append(values.cpu())
    row_text, back = torch.sort(torch.tensor(order), stable=True)
    text = torch.cat(texts)
    tokens = torch.argsort(text, stable=True)
    return SpotRows(
        {name: torch.cat(part)[back.to(part[0].device)] for name, part in inputs.items()},
        {name: torch.cat(part)[back.to(part[0].device)] for name, part in gradients.items()},
        row_text,
        torch.cat(losses)[tokens],
        text[tokens],
    )


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], spots: Spots
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inside, each module's input at the spots, and a zero that is added to its output there."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if not torch.is_grad_enabled():
                return output
            hidden = first_of(output)
            flat = spots.flattened(hidden)
            zero = torch.zeros(
                len(spots.flat), hidden.shape[-1], device=hidden.device, requires_grad=True
            )
            seen[name] = spots.rows(args[0]).float(), zero
            at = spots.flat.to(hidden.device)
            moved = flat.index_add(0, at, zero.to(hidden.dtype)).reshape(hidden.shape)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
