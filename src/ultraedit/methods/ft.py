"""Plain fine-tuning of one matrix: the reference that every editor has to beat."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam
from transformers import PreTrainedModel

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError
from ultraedit.forward.capture import frozen
from ultraedit.linalg.shift import Dense
from ultraedit.methods.base import Method, MethodInfo, Shifts, Workbench
from ultraedit.methods.settings import check_positive, is_count
from ultraedit.models.presets import output_projections
from ultraedit.models.target import Target
from ultraedit.records import Edit


@dataclass(frozen=True)
class FineTuningConfig:
    """Settings; the defaults are those of LocFT-BF (arXiv:2509.22072).

    Attributes:
        lr: Of Adam; `auto` is 5e-4.
        epochs: Over a turn's edits, at most.
        batch: Edits of one step.
        enough: The mean loss of an answer token at which an epoch is the last one.
    """

    lr: float | str = "auto"
    epochs: int = 25
    batch: int = 100
    enough: float = 1e-2

    def __post_init__(self) -> None:
        check_positive("lr", self.lr, auto=True)
        check_positive("enough", self.enough)
        for name in ("epochs", "batch"):
            if not is_count(getattr(self, name)):
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)!r}")


class FineTuning(Method):
    """Adam on the answer tokens' loss, mini-batches over a turn for several epochs.

    Moments begin anew with every turn, so there is no state: a whole file in one turn is the
    recipe as it was published, and many turns are what streaming makes of it.
    """

    info = MethodInfo(
        name="ft",
        summary="fine-tuning of one MLP matrix, turn by turn",
        reference="arXiv:2509.22072",
        tells_edits_apart=False,
        also_at_once=True,
        exports=("checkpoint", "delta", "lora"),
    )
    Config = FineTuningConfig

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        return output_projections(model, middle)

    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        lr = 5e-4 if self.config.lr == "auto" else float(self.config.lr)
        with tuning(workbench) as weights:
            before = {name: weight.detach().clone() for name, weight in weights.items()}
            optimiser = Adam(weights.values(), lr=lr)
            for epoch in range(self.config.epochs):
                if self._epoch(workbench, texts, weights, optimiser, epoch) < self.config.enough:
                    break
            moved = {name: weight.detach() - before[name] for name, weight in weights.items()}
        yield {
            name: Dense(delta.T.contiguous() if workbench.targets[name].transposed else delta)
            for name, delta in moved.items()
        }

    def _epoch(
        self,
        workbench: Workbench,
        texts: Sequence[Encoded],
        weights: dict[str, Tensor],
        optimiser: Adam,
        epoch: int,
    ) -> float:
        """One step a mini-batch; the mean loss of an answer token."""
        order = random.Random(epoch).sample(range(len(texts)), len(texts))
        total = tokens = 0.0
        for first in range(0, len(order), self.config.batch):
            chunk = [texts[place] for place in order[first : first + self.config.batch]]
            asked = sum(len(text.target) for text in chunk)
            total += step(workbench, chunk, weights, optimiser, asked)
            tokens += asked
        return total / tokens


def step(
    workbench: Workbench,
    texts: Sequence[Encoded],
    weights: dict[str, Tensor],
    optimiser: Adam,
    asked: int,
) -> float:
    """One step of the optimiser on the mean loss over `asked` answer tokens.

    Returns:
        Their summed loss before the step.
    """
    served = {name: workbench.targets[name].parameter for name in weights}
    optimiser.zero_grad()
    total = 0.0
    for batch in workbench.batches(texts):
        with torch.enable_grad():
            logits = workbench.logits(batch).float()
            labels = batch.labels[batch.answer_mask].to(logits.device)
            loss = F.cross_entropy(logits, labels, reduction="sum")
            gradients = torch.autograd.grad(loss / asked, list(served.values()))
        total += float(loss.detach())
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            found = gradient.float()
            weight.grad = found if weight.grad is None else weight.grad + found
    optimiser.step()
    with torch.no_grad():
        for name, parameter in served.items():
            parameter.copy_(weights[name])
    return total


@contextmanager
def tuning(workbench: Workbench) -> Iterator[dict[str, Tensor]]:
    """Float32 copies of the edited weights to optimise; the model's own come back after."""
    targets: dict[str, Target] = dict(workbench.targets)
    kept = {name: target.parameter.detach().clone() for name, target in targets.items()}
    weights = {n: w.to(torch.float32, copy=True).requires_grad_() for n, w in kept.items()}
    with frozen(workbench.model):
        try:
            for target in targets.values():
                target.parameter.requires_grad_(True)
            yield weights
        finally:
            for name, target in targets.items():
                target.parameter.requires_grad_(False)
                with torch.no_grad():
                    target.parameter.copy_(kept[name])


def middle(count: int) -> range:
    """The block whose output projection is tuned: facts are recalled from the middle on."""
    return range(count // 2, count // 2 + 1)


METHOD = FineTuning
