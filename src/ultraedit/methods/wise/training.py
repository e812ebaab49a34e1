"""Training a side copy on some edits, with its answers and its margins (arXiv:2405.14768)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import TurnRefusedError
from ultraedit.forward.capture import frozen
from ultraedit.forward.positions import Spots, recorded
from ultraedit.methods.base import Workbench
from ultraedit.methods.routing import asked
from ultraedit.methods.wise.scores import Margins, margin_loss, scores


@dataclass(frozen=True)
class Course:
    """How a side copy is trained.

    Attributes:
        lr: Of gradient descent.
        steps: At most so many.
        bound: No entry moves further from the matrix than this.
        margins: Of activation scores.
        unit: What scores are counted in.
        enough: The loss at which training ends.
    """

    lr: float
    steps: int
    bound: float
    margins: Margins
    unit: float
    enough: float


@dataclass(frozen=True)
class ModuleInputs:
    """The inputs of a module for some texts; they do not depend on its side copies.

    Attributes:
        inputs: (n, d) float32, at the asked tokens of all texts.
        text: (n,) int64, whose each is.
        count: How many texts.
    """

    inputs: Tensor
    text: Tensor
    count: int

    def of(self, text: int) -> ModuleInputs:
        """Of one of them alone."""
        own = self.inputs[self.text == text]
        return ModuleInputs(own, torch.zeros(len(own), dtype=torch.int64, device=own.device), 1)

    def scores(self, delta: Tensor) -> Tensor:
        """(count,) under a side copy, see `scores`."""
        return scores(self.inputs, self.text, self.count, delta)


@torch.no_grad()
def module_inputs(
    workbench: Workbench, module: nn.Module, texts: Sequence[Encoded], whole: bool = False
) -> ModuleInputs:
    """The inputs of a module at every token of the prompts; of the `whole` texts if asked.

    There has to be at least one text.
    """
    inputs, owners = [], []
    for batch in workbench.batches(texts):
        ends = batch.prompt_end
        mask = asked(
            batch.attention_mask.bool(), torch.full_like(ends, batch.width) if whole else ends
        )
        with recorded({"": module}, Spots.masked(mask)) as seen:
            workbench.logits(batch)
        inputs.append(seen[""][0])
        owners.append(batch.index[mask.cpu().nonzero()[:, 0]])
    return ModuleInputs(torch.cat(inputs), torch.cat(owners).to(inputs[0].device), len(texts))


def trained(
    workbench: Workbench,
    module: nn.Module,
    delta: Tensor,
    mask: Tensor,
    answers: Sequence[Encoded],
    inside: ModuleInputs,
    outside: ModuleInputs,
    course: Course,
) -> Tensor:
    """The side copy after gradient descent on the answers' loss and the margins'.

    Args:
        workbench: Of the model, whose own weights stay.
        module: The linear map that is copied.
        delta: (d, e) float32, (W' - W)^T; not written into.
        mask: (d, e) bool, the entries that may change.
        answers: Texts that end in new answers.
        inside: What the module sees of the edits' prompts.
        outside: And of texts that are none of their business.
        course: The settings.

    Raises:
        TurnRefusedError: the loss is not finite.
    """
    delta = delta.clone()
    for _ in range(course.steps):
        copy = delta.requires_grad_()
        loss, gradient = _answers(workbench, module, copy, answers)
        with torch.enable_grad():
            ours, others = inside.scores(copy), outside.scores(copy)
            kept = margin_loss(ours / course.unit, others / course.unit, course.margins)
            if kept > 0:
                gradient = gradient + torch.autograd.grad(kept, copy)[0]
        total = loss + float(kept.detach())
        delta = copy.detach()
        if not torch.isfinite(torch.tensor(total)) or not torch.isfinite(gradient).all():
            raise TurnRefusedError("a side memory was trained, and its loss is not finite")
        if total < course.enough:
            break
        delta = (delta - course.lr * gradient * mask).clamp(-course.bound, course.bound)
    return delta


def _answers(
    workbench: Workbench, module: nn.Module, delta: Tensor, texts: Sequence[Encoded]
) -> tuple[float, Tensor]:
    """Cross-entropy of an answer token, the mean over texts of their means; its gradient."""
    total = 0.0
    gradient = torch.zeros_like(delta)
    with frozen(workbench.model), _through(module, delta):
        for batch in workbench.batches(texts):
            with torch.enable_grad():
                logits = workbench.logits(batch).float()
                labels = batch.labels[batch.answer_mask].to(logits.device)
                sizes = batch.answer_mask.sum(1, keepdim=True).expand_as(batch.answer_mask)
                share = 1 / (sizes[batch.answer_mask] * len(texts)).to(logits)
                loss = (F.cross_entropy(logits, labels, reduction="none") * share).sum()
                gradient += torch.autograd.grad(loss, delta)[0]
            total += float(loss.detach())
    return total, gradient


@contextmanager
def _through(module: nn.Module, delta: Tensor) -> Iterator[None]:
    """Inside, the module's output is that of its side copy, for every token."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (args[0].float() @ delta).to(output.dtype)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
