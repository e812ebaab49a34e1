"""The method: every answer token's lead is raised, pass by pass, at the least cost to the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ultraedit.core.capture import Rows
from ultraedit.core.metric import directions, multipliers, summed
from ultraedit.core.shift import LowRank
from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError, TurnRefusedError
from ultraedit.methods.anchored import anchors, derive
from ultraedit.methods.anchored.memory import KeyMemory
from ultraedit.methods.anchored.pace import Pace
from ultraedit.methods.anchored.state import State
from ultraedit.methods.base import Method, MethodInfo, Shifts, Workbench
from ultraedit.methods.settings import check_positive, is_count
from ultraedit.methods.texts import drawn, of_file
from ultraedit.models.presets import output_projections
from ultraedit.records import Edit

# H M^-1 and H M^-1 H^T, of every module that has a memory.
Keys = tuple[dict[str, Tensor], dict[str, Tensor]]
# What belongs to no edit of the turn: rows that bring an anchor back.
NO_EDIT = -1
# Losses below this are all the same: in float32 a lead beyond 14 jumps by more than half a nat.
TINY = 1e-5


@dataclass(frozen=True)
class AnchoredConfig:
    """Settings; the numbers behind the method itself are in `derive`.

    Attributes:
        lr: What share of the way to its goal every answer token is taken in a pass, if its lead
            were linear in the weights; `auto` is `derive.STEP`.
        ridge: How much of a row is held back, as a share of its own weight in the solve.
        threshold: An edit is learned when every answer token has at least this probability.
        passes: At most so many over one turn.
        anchors: How many texts of `derive.ANCHOR_TOKENS` tokens it is held by; `auto` is
            `derive.anchor_texts`. Fewer are sooner measured.
        text: A text file to anchor to instead of what the model says by itself: it is then held
            to what it would say there. Read before the first turn, also after undoing all.
    """

    lr: float | str = "auto"
    ridge: float = 0.03
    threshold: float = 0.97
    passes: int = 10
    anchors: int | str = "auto"
    text: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_positive("lr", self.lr, auto=True)
        check_positive("ridge", self.ridge)
        check_positive("threshold", self.threshold)
        if self.threshold >= 1:
            raise InputError(f"threshold must lie between 0 and 1, not {self.threshold!r}")
        if not is_count(self.passes):
            raise InputError(f"passes must be at least 1, not {self.passes!r}")
        if self.anchors != "auto" and not is_count(self.anchors):
            raise InputError(f"anchors must be auto or at least 1, not {self.anchors!r}")
        if isinstance(self.text, os.PathLike):
            object.__setattr__(self, "text", os.fspath(self.text))
        if self.text is not None and not isinstance(self.text, str):
            raise InputError(f"text must be the path of a file, not {self.text!r}")


class Anchored(Method):
    """Closed-form passes over a turn until it is learned, held by anchors and past edits."""

    info = MethodInfo(
        name="anchored",
        summary="small closed-form passes, held by the model's own text and by past edits",
        reference="builds on arXiv:2505.14679",
        prepares="anchors are drawn and measured, once",
        exports=("checkpoint", "delta", "lora"),
    )
    Config = AnchoredConfig

    def __init__(self, config: AnchoredConfig | None = None) -> None:
        super().__init__(config)
        self.state = State()
        self._systems: dict[str, Tensor] = {}
        self._named = torch.empty(0, dtype=torch.int64)
        self._began = False

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        # Also of the paper's models: gate and up projections, which it edits in some of them,
        # lose a quarter of the mean here (docs/quality.md).
        return output_projections(model, derive.edited_blocks)

    @property
    def most_passes(self) -> int:
        return int(self.config.passes)

    def tokens_beside(self, edits: int) -> int:
        return max(derive.rehearsed(edits), anchors.CHUNK) * derive.ANCHOR_TOKENS

    def state_bytes(self, shapes: Sequence[tuple[int, int]]) -> int:
        # The anchors' own metric is on the CPU. Where a turn ends, its inverses stand beside
        # those of the turn before, and where past keys fade, one is inverted in float64.
        inverses = 4 * sum(d * d for d, _ in shapes)
        rest = 4 * sum(e * e if e <= d else e for d, e in shapes)
        return rest + 2 * inverses + max(32 * d * d for d, _ in shapes)

    def passes(
        self, bench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        self._systems, self._began = {}, not self.state.memories
        with refusing("the anchors"):
            state = self.state if self.state.memories else began(bench, self.config)
        state = state.on({n: target.parameter.device for n, target in bench.targets.items()})
        watched, places = state.watched(derive.rehearsed(len(texts)))
        newest = last_of_each(edits)
        known, named = torch.empty(0), places[:0]
        lefts: dict[str, Tensor] = {}
        systems: dict[str, Tensor] = {}
        pace = Pace(self._share)
        for number in range(self.config.passes):
            rows = bench.capture([*texts, *watched])
            some = next(iter(rows.values()))
            own = some.edit_index < len(texts)
            wanted = newest & unlearned(some, len(texts), self.config.threshold).cpu()
            if not wanted.any():
                break
            now = leads(some.losses)
            if number == 0:
                keys = rows[state.likeness.module].inputs
                named = state.likeness.close(keys[own.to(keys.device)]).nonzero()[:, 0]
                known = state.edited(named).known[places].to(now.device)
                # What has lost its place already may have been edited in other words.
                known[now[~own] <= 0] = -torch.inf
            missing = self._goal - now
            # Of an anchor's token; its row carries a little of the tokens after it, named or not.
            missing[~own] = known - now[~own]
            chosen = own.clone()
            chosen[own] = wanted.to(own.device)[some.edit_index[own]]
            chosen[~own] = (known > 0) & (missing[~own] > derive.MOVED)
            missing[own] *= pace.next_share(float(missing[chosen & own].clamp(min=0).sum()))
            # A text's loss falls by its tokens' leads times what each has left to win.
            falls = missing.clamp(min=0) * -torch.expm1(-some.losses)
            keep = own[chosen] if number == 0 else None
            shifts, cost, kept = self._solved(rows, chosen, falls, state, keep)
            most = pace.held_back(cost)
            index = torch.where(own, some.edit_index, NO_EDIT)[chosen]
            if number == 0:
                lefts, systems = kept
            yield {
                n: LowRank(left, right * most, index.to(left.device))
                for n, (left, right) in shifts.items()
            }
        if systems:
            with refusing("the turn's keys"):
                state = state.after(lefts, systems, named)
        self.state, self._systems, self._named = state, systems, named

    @property
    def _share(self) -> float:
        return derive.STEP if self.config.lr == "auto" else float(self.config.lr)

    @property
    def _goal(self) -> float:
        return derive.goal(self.config.threshold)

    def _solved(
        self,
        rows: Mapping[str, Rows],
        chosen: Tensor,
        falls: Tensor,
        state: State,
        keep: Tensor | None,
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], float, Keys]:
        """Both sides of every module's shift, what they cost, and the keys that are edits'.

        Args:
            rows: By module.
            chosen: (n,) bool, the rows that there is something to do for.
            falls: (n,) by how much each is to lower the loss of its text.
            state: The metrics.
            keep: (chosen,) bool, which of the chosen have keys to be returned; None for none.
        """
        index = next(iter(rows.values())).edit_index
        _, text = torch.unique(index[chosen], return_inverse=True)
        sides: dict[str, tuple[Tensor, Tensor]] = {}
        keys: Keys = ({}, {})
        kernel = torch.zeros((), device=chosen.device)
        for name, part in rows.items():
            here = chosen.to(part.inputs.device)
            found = directions(
                part.inputs[here],
                part.gradients.to(here.device)[here],
                state.memories[state.leaders[name]].inverse,
                state.whitening[name],
            )
            # Of all these rows one matrix is held at a time, whatever the number of modules.
            kernel = kernel + summed(summed(found.kernel.to(chosen.device), text).T, text)
            sides[name] = found.left, found.right
            if keep is not None and name in state.memories:
                edits = keep.to(found.left.device)
                keys[0][name], keys[1][name] = found.left[edits], found.system[edits][:, edits]
        texts = multipliers(kernel, summed(falls[chosen], text), self.config.ridge)
        cost = float(texts @ kernel.double() @ texts)
        amounts = texts[text]
        shifts = {
            name: (left, right * -amounts.to(right)[:, None])
            for name, (left, right) in sides.items()
        }
        return shifts, cost, keys

    def state_dict(self) -> dict[str, Tensor]:
        return self.state.tensors()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.state = State.of(state)

    def record(self) -> dict[str, Tensor]:
        """The whole state after the turn that drew the anchors; n x n numbers a module later."""
        if self._began:
            return self.state_dict()
        systems = {f"system.{name}": system for name, system in self._systems.items()}
        return systems | {"named": self._named.int()} if systems else {}

    def replay(self, record: Mapping[str, Tensor], passes: Sequence[Shifts]) -> None:
        if record and "named" not in record:
            self.load_state_dict(record)
        elif record:
            systems = {n.removeprefix("system."): m for n, m in record.items() if n != "named"}
            lefts = {}
            for name in systems:
                first = passes[0][name]
                lefts[name] = first.left[first.edit_index >= 0]  # type: ignore[union-attr]
            self.state = self.state.on({name: left.device for name, left in lefts.items()})
            self.state = self.state.after(lefts, systems, record["named"].long())


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Refuse the turn where its matrices cannot be factorised.

    Raises:
        TurnRefusedError: naming what they were made of.
    """
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise TurnRefusedError(f"{what} gave numbers that cannot be used: {error}") from error


def began(bench: Workbench, config: AnchoredConfig) -> State:
    """The state before a first turn: anchors drawn and measured, nothing remembered."""
    widest = max(target.d for target in bench.targets.values())
    count = derive.anchor_texts(widest) if config.anchors == "auto" else int(config.anchors)
    tokens = derive.ANCHOR_TOKENS
    if config.text is None:
        texts = drawn(bench, count, tokens)
    else:
        texts = of_file(bench, str(config.text), count, tokens)
    measured = anchors.measure(bench, texts)
    memories = {
        name: KeyMemory.empty(measured.modules[name].metric, bench.targets[name].parameter.device)
        for name, leader in measured.leaders.items()
        if leader == name
    }
    return State(
        measured.leaders,
        {name: one.whitening for name, one in measured.modules.items()},
        memories,
        tuple(texts),
        leads(torch.cat([scored.losses.float().cpu() for scored in bench.score(texts)])),
        measured.likeness,
    )


def last_of_each(edits: Sequence[Edit]) -> Tensor:
    """(edits,) bool: false where a later edit of the turn has the same prompt: the newest wins."""
    # Not the prompt's tokens: its last one may have gone to the target.
    places = {edit.prompt.strip(): place for place, edit in enumerate(edits)}
    return torch.tensor([places[edit.prompt.strip()] == place for place, edit in enumerate(edits)])


def leads(losses: Tensor) -> Tensor:
    """log p - log(1 - p) of tokens with these -log p; finite."""
    return -losses - torch.log(-torch.expm1(-losses.clamp(min=TINY)))


def unlearned(rows: Rows, edits: int, threshold: float) -> Tensor:
    """(edits,) bool: whether an edit's least likely token is still under the threshold."""
    own = rows.edit_index < edits
    index = rows.edit_index[own].to(rows.losses.device)
    worst = rows.losses.new_zeros(edits).scatter_reduce_(0, index, rows.losses[own], "amax")
    # What is no number has not been learned.
    return ~(worst <= -math.log(threshold)).to(rows.edit_index.device)
