"""MEMIT: many facts at once, spread over several blocks (arXiv:2210.07229)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import UnsupportedModelError
from ultraedit.linalg.shift import LowRank
from ultraedit.methods import rome
from ultraedit.methods.base import MethodInfo, Shifts, Workbench
from ultraedit.methods.locate.config import LocateConfig
from ultraedit.methods.locate.contexts import Located, by_edit, essence
from ultraedit.methods.locate.keys import at_places, mean_keys
from ultraedit.methods.locate.method import Locating
from ultraedit.methods.locate.value import search
from ultraedit.methods.settings import check_positive
from ultraedit.models.discover import decoder_blocks
from ultraedit.models.presets import main_outputs
from ultraedit.records import Edit

WEIGHT, WEIGHT_WIDTH = 15000.0, 16384
# Of what is added: half precision rounds, and a norm or a factor is off by more.
TOLERANCE = 0.1


@dataclass(frozen=True)
class MemitConfig(LocateConfig):
    """Settings; the defaults are those of arXiv:2210.07229.

    Attributes:
        weight: lambda, how much a key of the text in general weighs beside one of an edit; `auto`
            is the paper's 15,000 for the inputs of GPT-J, of 16,384 features, and in proportion
            for others: k^T C^-1 k, which it is held against, has as many features as its mean.
    """

    steps: int = 25
    clamp: float = 0.75
    prefixes: int = 5
    weight: float | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("weight", self.weight, auto=True)

    def weight_for(self, d: int) -> float:
        """lambda for inputs of d features."""
        return WEIGHT * d / WEIGHT_WIDTH if self.weight == "auto" else float(self.weight)


class Memit(Locating):
    """A turn's values are sought together; each block then takes its share of what is missing."""

    info = MethodInfo(
        name="memit",
        summary="a turn at once by least squares, spread over several blocks, at the subjects",
        reference="arXiv:2210.07229",
        needs_subject=True,
        prepares="the covariance of keys is measured, once for a model",
        exports=("checkpoint", "delta", "lora"),
    )
    Config = MemitConfig
    config: MemitConfig

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        return main_outputs(model, early)

    @property
    def most_passes(self) -> int:
        # One for each block, but of that block alone.
        return 1

    def attach(self, workbench: Workbench) -> None:
        for name, block in blocks_of(workbench).items():
            if not adds(workbench, block, workbench.targets[name].module):
                raise UnsupportedModelError(
                    f"memit cannot spread a change over blocks like that of {name}: what its MLP"
                    " gives is not added to the hidden states as it is"
                )

    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        self.prepare(workbench)
        blocks = blocks_of(workbench)
        last = {"last": list(blocks.values())[-1]}
        own = by_edit(workbench, edits, self.config.fact_token, self.before)
        alone = [texts[0] for texts in own]
        now = at_places(workbench, last, alone)["last"][1]
        essences = [essence(workbench, edit, self.config.fact_token) for edit in edits]
        wanted = now + search(workbench, last["last"], now, own, essences, self.config.search)
        for done, (name, target) in enumerate(workbench.targets.items()):
            keys = mean_keys(workbench, {name: target.module}, own)[name]
            missing = wanted - at_places(workbench, last, alone)["last"][1]
            share = missing / (len(blocks) - done)
            weight = self.config.weight_for(target.d)
            yield {name: spread(keys, share, self.factors[name], weight)}


def spread(keys: Tensor, residuals: Tensor, factor: Tensor, weight: float) -> LowRank:
    """The shift that adds the residuals at the keys, as far as other keys let it.

    R K^T (lambda C + K K^T)^-1 with keys as columns (arXiv:2210.07229, equation 14), by the
    Woodbury identity: (lambda C)^-1 K (I + K^T (lambda C)^-1 K)^-1 R^T, so that every edit has
    a row of its own. Solved in float64.

    Args:
        keys: (n, d) one key for every edit of the turn.
        residuals: (n, e).
        factor: (d, d) float64, the lower Cholesky factor of C.
        weight: lambda.
    """
    k = keys.double()
    left = torch.cholesky_solve(k.T, factor).T / weight
    system = left @ k.T
    system.diagonal().add_(1.0)
    right = torch.linalg.solve(system, residuals.to(system))
    index = torch.arange(len(keys), device=keys.device)
    return LowRank(left.to(keys.dtype), right.to(keys.dtype), index)


def blocks_of(workbench: Workbench) -> dict[str, nn.Module]:
    """The decoder block of every edited module, in the same order.

    Raises:
        UnsupportedModelError: a module is in none, or two are in one.
    """
    path, blocks = decoder_blocks(workbench.model)
    found: dict[str, nn.Module] = {}
    for name in workbench.targets:
        number = name.removeprefix(f"{path}.").split(".")[0]
        if not name.startswith(f"{path}.") or not number.isdecimal():
            raise UnsupportedModelError(f"memit cannot edit {name}: it is in no decoder block")
        found[name] = blocks[int(number)]
    if len({id(block) for block in found.values()}) < len(found):
        raise UnsupportedModelError("memit edits one module of a block")
    return found


def adds(workbench: Workbench, block: nn.Module, module: nn.Module) -> bool:
    """Whether what is added to the module's output is added to the block's as it is."""
    ids = tuple(workbench.encoder.token_ids("a"))
    text = Located(Encoded(ids, ids[-1:], 1), len(ids) - 1)
    before = at_places(workbench, {"block": block}, [text])["block"][1]
    size = float(before.abs().mean())
    handle = module.register_forward_hook(lambda module, args, output: output + size)
    try:
        after = at_places(workbench, {"block": block}, [text])["block"][1]
    finally:
        handle.remove()
    return float((after - before - size).abs().mean()) < TOLERANCE * size


def early(count: int) -> range:
    """The blocks whose output projections are edited, of `count`: 3 to 8 of 28 in GPT-J."""
    (middle,) = rome.early(count)
    return range(max(middle - 2, 0), max(min(middle + 3, count - 2), 0) + 1)


METHOD = Memit
