"""ROME: one fact at a time as a rank-one change of one block's MLP (arXiv:2202.05262)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ultraedit.encoding.tokenise import Encoded
from ultraedit.linalg.shift import LowRank
from ultraedit.methods.base import MethodInfo, Shifts, Workbench
from ultraedit.methods.locate.config import LocateConfig
from ultraedit.methods.locate.contexts import by_edit, essence
from ultraedit.methods.locate.keys import mean_keys
from ultraedit.methods.locate.method import Locating
from ultraedit.methods.locate.value import search
from ultraedit.models.presets import main_outputs
from ultraedit.models.target import Target
from ultraedit.records import Edit


@dataclass(frozen=True)
class RomeConfig(LocateConfig):
    """Settings; the defaults are those of arXiv:2202.05262."""


class Rome(Locating):
    """The edits of a turn are written one after the other, each into what the last one left."""

    info = MethodInfo(
        name="rome",
        summary="a rank-one change of one block for every fact, at its subject",
        reference="arXiv:2202.05262",
        needs_subject=True,
        prepares="the covariance of keys is measured, once for a model",
        exports=("checkpoint", "delta", "lora"),
    )
    Config = RomeConfig

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        return main_outputs(model, early)

    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        self.prepare(workbench)
        for place, edit in enumerate(edits):
            own = by_edit(workbench, [edit], self.config.fact_token, self.before)
            for name, target in workbench.targets.items():
                keys = mean_keys(workbench, {name: target.module}, own)[name]
                change = search(
                    workbench, target.module, given(target, keys), own,
                    [essence(workbench, edit, self.config.fact_token)], self.config.search,
                )  # fmt: skip
                yield {name: rank_one(keys[0], change[0], self.factors[name], place)}


@torch.no_grad()
def given(target: Target, keys: Tensor) -> Tensor:
    """What the module gives for (n, d) inputs: (n, e) float32."""
    found: Tensor = target.module(keys.to(target.parameter.dtype))
    return found.float()


def rank_one(key: Tensor, change: Tensor, factor: Tensor, edit: int) -> LowRank:
    """The shift that takes W k to v*, and what text in general gives as little as can be.

    (v* - W k) u^T / (k^T u) with u = C^-1 k (arXiv:2202.05262, equation 2).

    Args:
        key: (d,) k.
        change: (e,) v* - W k.
        factor: (d, d) float64, the lower Cholesky factor of C.
        edit: Whose it is, in the turn.
    """
    k = key.double()
    u = torch.cholesky_solve(k[:, None], factor)[:, 0]
    left = (u / (k @ u)).to(key.dtype)
    return LowRank(left[None], change[None], torch.tensor([edit], device=key.device))


def early(count: int) -> range:
    """The block whose output projection is edited, of `count`: 5 of 28 (GPT-J), the first of 6."""
    return range(max(count - 3, 0) // 5, max(count - 3, 0) // 5 + 1)


METHOD = Rome
