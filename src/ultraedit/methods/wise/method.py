"""The method: shards of a side memory are trained, merged, and routed to (arXiv:2405.14768)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ultraedit.encoding.batching import Query
from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError
from ultraedit.methods.base import Method, MethodInfo, Shifts, Workbench
from ultraedit.methods.routing import Router
from ultraedit.methods.sample_text import drawn, of_file
from ultraedit.methods.settings import check_positive, is_count
from ultraedit.methods.wise.copies import SideCopies
from ultraedit.methods.wise.scores import Margins
from ultraedit.methods.wise.shards import Shard, mask
from ultraedit.methods.wise.state import WiseState
from ultraedit.methods.wise.training import Course, ModuleInputs, module_inputs, trained
from ultraedit.models.memory import Cost
from ultraedit.models.presets import main_outputs
from ultraedit.models.target import Target
from ultraedit.records import Edit

# How long a module's outputs are about where the paper's margins come from.
OUTPUT = 20.0
# Texts that are none of an edit's business, and how long they are.
OUTSIDE, OUTSIDE_TOKENS = 256, 24


@dataclass(frozen=True)
class WiseConfig:
    """Settings; the defaults are those of arXiv:2405.14768.

    Attributes:
        lr: Of gradient descent; `auto` is 1.
        steps: At most so many over one batch of edits.
        batch: Edits trained together.
        share: Of the matrix's entries that a shard may change.
        bound: No entry moves further than this.
        outside, inside, between: Margins of activation scores: alpha, beta and gamma.
        unit: What activation scores are counted in: `auto` is 1, or more where the module's
            outputs are longer than the margins are made for.
        ratio: A side memory serves what scores above so much of the least its edits do.
        shard_edits: A shard is kept, and another begun, at so many edits.
        merge: Kept shards that are merged into one side memory.
        density: Of a shard's entries that stay where it is merged.
        enough: The loss at which training ends.
        text: A text file to contrast edits with, instead of text that the model generates.
    """

    lr: float | str = "auto"
    steps: int = 70
    batch: int = 1
    share: float = 0.2
    bound: float = 1.0
    outside: float = 5.0
    inside: float = 20.0
    between: float = 10.0
    unit: float | str = "auto"
    ratio: float = 0.88
    shard_edits: int = 500
    merge: int = 2
    density: float = 0.53
    enough: float = 0.01
    text: str | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "unit"):
            check_positive(name, getattr(self, name), auto=True)
        for name in ("bound", "outside", "inside", "between", "ratio", "enough"):
            check_positive(name, getattr(self, name))
        for name in ("steps", "batch", "shard_edits", "merge"):
            if not is_count(getattr(self, name)):
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        for name in ("share", "density"):
            check_positive(name, getattr(self, name))
            if getattr(self, name) > 1:
                raise InputError(f"{name} must lie between 0 and 1, not {getattr(self, name)!r}")
        if self.text is not None:
            object.__setattr__(self, "text", str(self.text))

    @property
    def margins(self) -> Margins:
        return Margins(self.outside, self.inside, self.between)


class Wise(Method):
    """The model's own weights stay; what was edited is answered by a copy of one matrix."""

    info = MethodInfo(
        name="wise",
        summary="side copies of one late matrix, which edited queries are routed to",
        reference="arXiv:2405.14768",
        changes_weights=False,
        tells_edits_apart=False,
        exports=(),
    )
    Config = WiseConfig
    config: WiseConfig

    def __init__(self, config: WiseConfig | None = None) -> None:
        super().__init__(config)
        self.state = WiseState()
        self.router: Router | None = None
        self._before: dict[str, Tensor] = {}
        self._outside: list[ModuleInputs] | None = None
        self._device = torch.device("cpu")

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        return main_outputs(model, late)

    @property
    def most_passes(self) -> int:
        return 0

    def cost(self, shapes: Sequence[tuple[int, int]], edits: int) -> Cost:
        size = sum(d * e for d, e in shapes)
        shard = int(4 * self.config.share * size)
        return Cost(
            # A copy that serves, the one of the turn before, a gradient and a mask.
            memory=16 * size,
            # Every `merge` full shards leave one dense memory more; these are not foreseen here.
            state=self.config.merge * shard,
            record=shard,
        )

    def attach(self, workbench: Workbench) -> None:
        if len(workbench.targets) != 1:
            raise InputError(f"wise copies one module, not {len(workbench.targets)}")
        (target,) = workbench.targets.values()
        self._device = target.parameter.device
        self.router = Router(workbench.model, target.module)

    def detach(self) -> None:
        if self.router is not None:
            self.router.remove()

    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        config = self.config
        (target,) = workbench.targets.values()
        with self.bypassed():
            state = self.state if self.state.shards else self._begun(workbench, target, texts)
            outside = self._others(workbench, target)
            begin = 0
            while begin < len(texts):
                # A turn may fill a shard before it ends.
                end = min(begin + config.shard_edits - state.live.edits, len(texts))
                live = self._trained(workbench, target, state, texts[begin:end], outside)
                state = state.written(live)
                if live.edits >= config.shard_edits:
                    state = state.closed(config.merge, config.density)
                begin = end
        self._before = self.state_dict()
        self._serve(state)
        yield {}

    def _begun(self, workbench: Workbench, target: Target, texts: Sequence[Encoded]) -> WiseState:
        """No edit yet, and units that fit what the module gives."""
        config = self.config
        keys = module_inputs(workbench, target.module, texts).inputs
        # Some words give fifty times what others do, and say little of the model.
        unit = max(1.0, float(linear(target, keys).norm(dim=1).median()) / OUTPUT)
        unit = unit if config.unit == "auto" else float(config.unit)
        return WiseState(
            (Shard.empty(target.d, target.e, config.share, 0, self._device),), (), unit
        )

    def _trained(
        self,
        workbench: Workbench,
        target: Target,
        state: WiseState,
        texts: Sequence[Encoded],
        outside: list[ModuleInputs],
    ) -> Shard:
        """The live shard with these edits too."""
        config, live = self.config, state.live
        own = mask(target.d, target.e, live.share, live.number).to(self._device)
        lr = 1.0 if config.lr == "auto" else float(config.lr)
        course = Course(lr, config.steps, config.bound, config.margins, state.unit, config.enough)
        delta, least = live.delta, live.least
        seen: list[ModuleInputs] = []
        draw = random.Random(live.edits + live.number * config.shard_edits)
        for first in range(0, len(texts), config.batch):
            batch = texts[first : first + config.batch]
            seen.append(module_inputs(workbench, target.module, batch))
            others = together(draw.sample(outside, min(len(batch), len(outside))))
            delta = trained(workbench, target.module, delta, own, batch, seen[-1], others, course)
        # Of the copy as the turn leaves it: later edits move what earlier ones scored.
        least = min(least, *(float(one.scores(delta).min()) for one in seen))
        return replace(live, delta=delta, least=least, edits=live.edits + len(texts))

    def _others(self, workbench: Workbench, target: Target) -> list[ModuleInputs]:
        """What the module sees of texts that no edit is about, one by one."""
        if self._outside is None:
            if self.config.text is None:
                texts = drawn(workbench, OUTSIDE, OUTSIDE_TOKENS)
            else:
                texts = of_file(workbench, self.config.text, OUTSIDE, OUTSIDE_TOKENS)
            found = module_inputs(workbench, target.module, texts, whole=True)
            self._outside = [found.of(place) for place in range(found.count)]
        return self._outside

    def _serve(self, state: WiseState) -> None:
        self.state = state.on(self._device)
        if self.router is not None:
            shards = self.state.serving
            edited = any(shard.edits for shard in shards)
            self.router.serve(SideCopies(shards, self.config.ratio) if edited else None)

    def query(self, query: Query) -> AbstractContextManager[Any]:
        return nullcontext() if self.router is None else self.router.query(query)

    def bypassed(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.router is None else self.router.bypassed()

    def state_dict(self) -> dict[str, Tensor]:
        return self.state.tensors()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._serve(WiseState.of(state))

    def record(self) -> dict[str, Tensor]:
        """What the turn changed: the shard it wrote to, and what came of it."""
        now = self.state_dict()
        return {
            name: tensor for name, tensor in now.items() if tensor is not self._before.get(name)
        }

    def replay(self, record: Mapping[str, Tensor], passes: Sequence[Shifts]) -> None:
        self.load_state_dict({**self.state_dict(), **record})


@torch.no_grad()
def linear(target: Target, inputs: Tensor) -> Tensor:
    """(n, e) float32: what the matrix alone makes of (n, d) inputs."""
    weight = target.parameter.float()
    return inputs @ (weight.T if target.transposed else weight)


def together(texts: Sequence[ModuleInputs]) -> ModuleInputs:
    """Several single texts as one; at least one."""
    numbers = [torch.full_like(text.text, place) for place, text in enumerate(texts)]
    return ModuleInputs(torch.cat([t.inputs for t in texts]), torch.cat(numbers), len(texts))


def late(count: int) -> range:
    """The block whose output projection is copied, of `count`: 27 of 32 in Llama-2-7B."""
    return range(count * 27 // 32, count * 27 // 32 + 1)
