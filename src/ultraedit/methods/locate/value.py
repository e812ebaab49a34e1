"""What a module should give at a subject's last token, for the model to say the new answer.

arXiv:2202.05262, section 3.1, equation 4. Edits do not see each other, and Adam moves every
coordinate by itself, so many are sought side by side with what each would find alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from ultraedit.errors import TurnRefusedError
from ultraedit.forward.capture import FLOAT16_SCALES, frozen
from ultraedit.forward.positions import Spots, moved
from ultraedit.methods.base import Workbench
from ultraedit.methods.locate.contexts import Located

# Edits sought side by side: what the model said before is kept for all of them.
TOGETHER = 64
TINY = 1e-30
# What both papers step by, in models whose hidden states are a few units long.
LR, REACH = 0.5, 4


@dataclass(frozen=True)
class Search:
    """How a value is sought.

    Attributes:
        steps: Of Adam.
        lr: Of Adam, in the module's own units; None for `LR`, or for more where the hidden states
            are so long that steps of it would not get anywhere: `REACH` of them go to the clamp.
        clamp: The change is at most so many times as long as what the module gives now.
        decay: Of the loss term `decay * |change| / |now|`.
        kl: Of the loss term KL(after || before) on what the subject is.
        enough: The loss at which an edit's search ends.
    """

    steps: int
    lr: float | None
    clamp: float
    decay: float
    kl: float
    enough: float


def search(
    workbench: Workbench,
    module: nn.Module,
    now: Tensor,
    answers: Sequence[Sequence[Located]],
    essences: Sequence[Located | None],
    how: Search,
) -> Tensor:
    """The changes of what `module` gives at the subjects' last tokens.

    Args:
        workbench: Of the model.
        module: Whose output is changed.
        now: (edits, e) what it gives there.
        answers: Per edit, texts that end in its new answer.
        essences: Per edit, the text whose next token should stay as it was, if there is one.
        how: The search.

    Returns:
        (edits, e) float32.

    Raises:
        TurnRefusedError: a loss is not finite.
    """
    parts = [slice(n, n + TOGETHER) for n in range(0, len(now), TOGETHER)]
    with frozen(workbench.model):
        return torch.cat(
            [_search(workbench, module, now[p], answers[p], essences[p], how) for p in parts]
        )


def _search(
    workbench: Workbench,
    module: nn.Module,
    now: Tensor,
    answers: Sequence[Sequence[Located]],
    essences: Sequence[Located | None],
    how: Search,
) -> Tensor:
    change = torch.zeros_like(now)
    sizes = now.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    held = {edit: one for edit, one in enumerate(essences) if one is not None}
    before = dict(zip(held, _distributions(workbench, list(held.values())), strict=True))
    # Adam's step is of one size whatever the slope: to each edit its own unit.
    units = _steps(sizes, now.shape[1], how)[:, None]
    scaled = torch.zeros_like(now, requires_grad=True)
    optimiser = Adam([scaled], lr=1.0)
    searching = list(range(len(now)))
    for _ in range(how.steps):
        losses, gradient = torch.zeros_like(sizes), torch.zeros_like(now)
        own = [(edit, one) for edit in searching for one in answers[edit]]
        for edits, values, slope in _slopes(workbench, module, change, own, _unlikelihood):
            share = torch.tensor([1 / len(answers[edit]) for edit in edits]).to(now)
            _add(losses, gradient, edits, values * share, slope * share[:, None])
        own = [(edit, held[edit]) for edit in searching if edit in held]
        for edits, values, slope in _slopes(workbench, module, change, own, _drift(before)):
            _add(losses, gradient, edits, values * how.kl, slope * how.kl)
        lengths = change.norm(dim=1)
        losses += how.decay * lengths / sizes
        # A length has no slope where it begins.
        gradient += how.decay * change / (lengths.clamp(min=TINY) * sizes)[:, None]
        if not torch.isfinite(losses).all() or not torch.isfinite(gradient).all():
            raise TurnRefusedError("a value was sought, and its loss is not finite")
        searching = [edit for edit in searching if losses[edit] >= how.enough]
        if not searching:
            break
        scaled.grad = gradient * units
        optimiser.step()
        with torch.no_grad():
            wanted = scaled * units
            limit = how.clamp * sizes / wanted.norm(dim=1).clamp(min=TINY)
            scaled *= limit.clamp(max=1.0)[:, None]
            # What was found stays, wherever Adam's momentum would carry it.
            change[searching] = (scaled * units)[searching]
    return change


def _steps(sizes: Tensor, width: int, how: Search) -> Tensor:
    """(edits,) how far Adam moves a coordinate at once."""
    if how.lr is not None:
        return torch.full_like(sizes, how.lr)
    return (how.clamp * sizes / (REACH * width**0.5)).clamp(min=LR)


# From logits and labels at the answer tokens, texts of them, and edits of the texts, to a value of
# every text.
Value = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]


def _slopes(
    workbench: Workbench,
    module: nn.Module,
    change: Tensor,
    texts: Sequence[tuple[int, Located]],
    value: Value,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Batch by batch: each text's edit, its value, and the value's slope in the edit's change."""
    places = [one.place for _, one in texts]
    half = change.is_floating_point() and workbench.model.dtype == torch.float16
    for batch in workbench.batches([one.text for _, one in texts]):
        edits = [texts[index][0] for index in batch.index.tolist()]
        rows = change[edits].requires_grad_()
        with torch.enable_grad(), moved(module, Spots.of(batch, places), rows):
            logits = workbench.logits(batch).float()
            text = batch.answer_mask.nonzero()[:, 0].to(logits.device)
            labels = batch.labels[batch.answer_mask].to(logits.device)
            values = value(logits, labels, text, edits)
            for scale in FLOAT16_SCALES if half else (1.0,):
                (slope,) = torch.autograd.grad(values.sum() * scale, rows, retain_graph=half)
                if torch.isfinite(slope).all():
                    break
        yield edits, values.detach().to(change), slope / scale


def _unlikelihood(logits: Tensor, labels: Tensor, text: Tensor, edits: list[int]) -> Tensor:
    """(texts,) mean cross-entropy of a text's answer tokens."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    sums = losses.new_zeros(len(edits)).index_add(0, text, losses)
    return sums / torch.bincount(text, minlength=len(edits))


def _drift(before: Mapping[int, Tensor]) -> Value:
    """KL(after || before) of a text's one next token; `before` are log-probabilities by edit."""

    def value(logits: Tensor, labels: Tensor, text: Tensor, edits: list[int]) -> Tensor:
        after = F.log_softmax(logits, -1)
        own = torch.stack([before[edit] for edit in edits]).to(after)
        return (after.exp() * (after - own)).sum(-1)

    return value


@torch.no_grad()
def _distributions(workbench: Workbench, texts: Sequence[Located]) -> Tensor:
    """(texts, vocabulary) log-probabilities of each text's one answer token, as the model is."""
    parts, order = [], list[int]()
    for batch in workbench.batches([one.text for one in texts]) if texts else ():
        parts.append(F.log_softmax(workbench.logits(batch).float(), -1))
        order += batch.index.tolist()
    return torch.cat(parts)[torch.argsort(torch.tensor(order))] if parts else torch.empty(0)


def _add(losses: Tensor, gradient: Tensor, edits: list[int], values: Tensor, slope: Tensor) -> None:
    index = torch.tensor(edits, device=losses.device)
    losses.index_add_(0, index, values)
    gradient.index_add_(0, index, slope.to(gradient))
