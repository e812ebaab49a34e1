"""Inputs and output gradients of the edited modules at answer positions, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch
from ultraedit.forward.forward import Read, answer_logits
from ultraedit.forward.loss import loss_gradient

Loss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

FLOAT16_SCALES = (2.0**12, 2.0**6, 1.0)


@dataclass(frozen=True)
class Rows:
    """What one module saw at the answer tokens of a turn.

    Attributes:
        inputs: (n, d) float32, the module's inputs H.
        gradients: (n, e) float32, the gradients G of the summed answer loss with respect
            to the module's outputs.
        edit_index: (n,) int64, which text each row belongs to; ascending, and in token
            order within a text.
        losses: (n,) float32, of the tokens themselves: cross-entropy, unless another loss
            was asked for.
    """

    inputs: Tensor
    gradients: Tensor
    edit_index: Tensor
    losses: Tensor


def capture(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    read: Read | None = None,
    loss: Loss = loss_gradient,
) -> dict[str, Rows]:
    """Rows of every module over all batches, in the order of the texts they came from.

    The loss is summed over answer tokens, so a row does not depend on what it is batched
    with. Weights need no gradient: the graph begins at the first module's output.

    Args:
        model: A causal language model, in evaluation mode.
        modules: Linear maps inside `model`, by name.
        batches: Padded texts; `Batch.index` says which text each row is.
        read: How the model is read, where not in one pass of the whole; see `forward.passes`.
        loss: What is differentiated: from logits, labels and a scale to a value of every
            token and the gradient with respect to the logits; see `forward.loss`.

    Returns:
        Per module name, on the module's device. Gradients of a float16 model are computed
        with a scaled loss and unscaled in float32.
    """
    parts: dict[str, list[Rows]] = {name: [] for name in modules}
    read = read or partial(answer_logits, model)
    for batch in batches:
        rows = _capture_batch(model, modules, batch, read, loss)
        for name, part in rows.items():
            parts[name].append(part)
    return {name: _in_order(part) for name, part in parts.items()}


def _capture_batch(
    model: nn.Module, modules: Mapping[str, nn.Module], batch: Batch, read: Read, loss: Loss
) -> dict[str, Rows]:
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    scales = FLOAT16_SCALES if half else (1.0,)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with frozen(model), _recording(modules, seen), torch.enable_grad():
        logits = read(batch)
        missing = [name for name in modules if name not in seen]
        if missing:
            raise RuntimeError(f"the forward pass does not reach {', '.join(missing)}")
        outputs = [seen[name][1] for name in modules]
        labels = batch.labels[batch.answer_mask].to(logits.device)
        for scale in scales:
            last = scale == scales[-1]
            losses, slope = loss(logits, labels, scale)
            gradients = torch.autograd.grad(logits, outputs, slope, retain_graph=not last)
            if last or all(torch.isfinite(gradient).all() for gradient in gradients):
                break
    rows = {}
    for name, gradient in zip(modules, gradients, strict=True):
        inputs = seen[name][0].detach()
        # Where prompts were read apart, these are the answer columns alone. Some models
        # flatten batch and positions before their MLP.
        columns = gradient.shape[:-1].numel() // len(batch.starts)
        mask = batch.answer_mask[:, -columns:].to(gradient.device)
        text = batch.index.to(gradient.device)[mask.nonzero()[:, 0]]
        chosen = mask if inputs.dim() == 3 else mask.flatten()
        rows[name] = Rows(
            inputs[chosen.to(inputs.device)].float(),
            gradient[chosen].float() / scale,
            text,
            losses.to(gradient.device),
        )
    return rows


def _in_order(parts: list[Rows]) -> Rows:
    index = torch.cat([part.edit_index for part in parts])
    order = torch.argsort(index, stable=True)
    return Rows(
        torch.cat([part.inputs for part in parts])[order],
        torch.cat([part.gradients for part in parts])[order],
        index[order],
        torch.cat([part.losses for part in parts])[order],
    )


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; the caller's flags come back after."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def _recording(
    modules: Mapping[str, nn.Module], seen: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Keep each module's input and an output that the loss can be differentiated by."""

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            seen[name] = (args[0], output)
            # The model gets a copy: some write into what a projection returned.
            return output.clone()

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
