"""What the anchors say about a module: which inputs are in use, which outputs decide.

Both moments come from one forward and backward pass over text that the model drew itself (or a
text of the user's): what it says by itself is what it should go on saying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraedit.core.capture import Rows
from ultraedit.core.loss import choice_lead_gradient
from ultraedit.encoding.tokenise import Encoded
from ultraedit.methods.anchored.derive import DAMPING, FLOOR
from ultraedit.methods.anchored.likeness import Likeness, likeness, narrowed, narrowing
from ultraedit.methods.base import Workbench
from ultraedit.models.target import Target

# Texts of one capture: its rows are float32, and at 7B's width some 70 kB a token and module.
CHUNK = 128
TINY = 1e-30


@dataclass(frozen=True)
class Anchors:
    """What one module is held by.

    Attributes:
        metric: (d, d) float32 on the CPU, E[h h^T] over the anchors' tokens, plus a floor. A
            token counts as much as the model is sure of its choice there.
        whitening: float32, (E[m m^T] + damping)^-1 with m the gradient of the lead that the
            model's choice has over every other token. A gradient of the module's outputs times
            this is the change that gains most for what it costs of other choices. It is (e, e);
            of a map into an MLP, to more features than it is given, only the diagonal is taken,
            (e,): its outputs go through a function one by one. It is scaled so that m itself
            comes out, on average, at the size of the outputs.
    """

    metric: Tensor
    whitening: Tensor


@dataclass
class _Sums:
    inputs: Tensor
    gradients: Tensor
    weight: float


@dataclass(frozen=True)
class Measured:
    """What the anchors say of all modules.

    Attributes:
        modules: By module.
        leaders: For every module the first one that is given the same inputs.
        likeness: Of the keys of the last edited module: there a model has most of what it is
            about to say.
    """

    modules: dict[str, Anchors]
    leaders: dict[str, str]
    likeness: Likeness


def measure(bench: Workbench, texts: Sequence[Encoded]) -> Measured:
    """Anchors of every edited module over `texts`; their moments leave position 0 out.

    What stands at the first position attends to nothing else and is the same for all texts.
    """
    sums: dict[str, _Sums] = {}
    leaders: dict[str, str] = {}
    last = list(bench.targets)[-1]
    keys, by = [], narrowing(bench.targets[last].d)
    for first in range(0, len(texts), CHUNK):
        rows = bench.capture(texts[first : first + CHUNK], choice_lead_gradient)
        leaders = leaders or shared_inputs(rows)
        keys.append(narrowed(rows[last].inputs, by))
        for name, part in rows.items():
            _add(sums, name, part)
    found = {name: _anchors(sums.pop(name), target) for name, target in bench.targets.items()}
    return Measured(found, leaders, likeness(last, bench.targets[last].d, torch.cat(keys)))


def shared_inputs(rows: Mapping[str, Rows]) -> dict[str, str]:
    """For every module the first one that is given the same inputs, itself otherwise.

    Gate and up projections of one block are.
    """
    leaders: dict[str, str] = {}
    for name in rows:
        leaders[name] = next(
            (other for other in leaders if _same(rows[other].inputs, rows[name].inputs)), name
        )
    return leaders


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)


def _add(sums: dict[str, _Sums], name: str, rows: Rows) -> None:
    later = torch.cat([rows.edit_index.new_zeros(1), rows.edit_index[:-1]]) == rows.edit_index
    later[0] = False
    # The square root goes into both sides of the product.
    sure = torch.exp(-rows.losses).to(later.device) * later
    h, g = (part * sure.sqrt().to(part.device)[:, None] for part in (rows.inputs, rows.gradients))
    held = sums.setdefault(name, _Sums(torch.zeros(()), torch.zeros(()), 0.0))
    second = g.square().sum(0) if g.shape[1] > h.shape[1] else g.T @ g
    # In float32: what float64 would add is far below the floor, and of a wide model the sums
    # of all modules are gigabytes.
    held.inputs = h.T @ h + held.inputs.to(h.device)
    held.gradients = second + held.gradients.to(g.device)
    held.weight += float(sure.sum())


def _anchors(sums: _Sums, target: Target) -> Anchors:
    if not sums.weight:
        # Every text ended at once: nothing is known, and every direction is as dear as another.
        device = target.parameter.device
        output = torch.ones(target.e) if target.e > target.d else torch.eye(target.e)
        return Anchors(torch.eye(target.d), output.to(device))
    metric = sums.inputs / sums.weight
    weight = target.parameter.detach().to(metric)
    weight = weight if target.transposed else weight.T
    outputs = ((weight @ metric) * weight).sum().clamp(min=0).sqrt()
    metric.diagonal().add_(FLOOR * metric.diagonal().mean())
    metric = metric.cpu()
    leads = sums.gradients.double() / sums.weight
    if leads.dim() == 1:
        whitening = 1 / (leads + DAMPING * leads.mean() + TINY)
        size = (whitening.square() * leads).sum().clamp(min=TINY).sqrt()
        return Anchors(metric, (whitening * (outputs / size)).float())
    damped = leads.clone()
    damped.diagonal().add_(DAMPING * leads.diagonal().mean() + TINY)
    whitening = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    # The root of the mean square of a whitened m.
    size = (whitening * (leads @ whitening)).sum().clamp(min=TINY).sqrt()
    return Anchors(metric, (whitening * (outputs / size)).float().contiguous())
