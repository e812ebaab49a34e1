"""The method: an answer is written where its subject ends, at the least cost to everything else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError, TurnRefusedError
from ultraedit.linalg.shift import LowRank, Shift
from ultraedit.methods.anchored import defaults
from ultraedit.methods.anchored.anchors import measured
from ultraedit.methods.anchored.contexts import FormQueue, beginnings, forms, next_forms
from ultraedit.methods.anchored.memory import KeyMemory
from ultraedit.methods.anchored.solving import falls_wanted, solved
from ultraedit.methods.anchored.state import AnchoredState
from ultraedit.methods.base import Method, MethodInfo, Shifts, Workbench
from ultraedit.methods.settings import check_positive, is_count
from ultraedit.models.memory import Cost
from ultraedit.models.presets import inner_size, output_projections
from ultraedit.records import Edit


@dataclass(frozen=True)
class AnchoredConfig:
    """Settings; the numbers behind the method itself are in `derive`.

    Attributes:
        lr: What share of the way to its goal every answer is taken in a pass, if its lead were
            linear in the weights; `auto` is `defaults.STEP`.
        ridge: How much of a row is held back, as a share of its own weight in the solve.
        threshold: An edit is learned when every answer token has at least this probability.
        passes: At most so many over one turn.
        contexts: How many beginnings, drawn by the model, a prompt is also read behind: more
            carry an edit further, to prompts in other surroundings.
        forms: How many of an edit's texts a pass reads beside the edit's own, in turn. 0 takes
            half the time, and reworded prompts learn less.
        anchors: How many names the model is held by; `auto` is `defaults.anchor_texts`.
        text: A text file that stands for ordinary text instead of what the model draws itself.
            Read before the first turn, also after undoing all.
    """

    lr: float | str = "auto"
    ridge: float = 0.03
    threshold: float = 0.9
    passes: int = 12
    contexts: int = 4
    forms: int = 1
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
        for name in ("contexts", "forms"):
            value = getattr(self, name)
            if value is False or (value != 0 and not is_count(value)):
                raise InputError(f"{name} must be 0 or more, not {value!r}")
        if self.anchors != "auto" and not is_count(self.anchors):
            raise InputError(f"anchors must be auto or at least 1, not {self.anchors!r}")
        if isinstance(self.text, os.PathLike):
            object.__setattr__(self, "text", os.fspath(self.text))
        if self.text is not None and not isinstance(self.text, str):
            raise InputError(f"text must be the path of a file, not {self.text!r}")


class Anchored(Method):
    """Closed-form passes over a turn until it is learned, held by other names and past edits.

    Every pass solves one joint least-squares problem over all edited modules. Each text is one
    constraint: its loss is to fall by so much. The price of a shift W is tr(W^T M W), M being the
    second moment of the inputs that other names, ordinary text and past edits give. As in
    arXiv:2202.05262, an edit is written at its subject's last token.
    """

    info = MethodInfo(
        name="anchored",
        summary="closed-form passes where a subject ends, held by other names and past edits",
        reference="builds on arXiv:2505.14679 and arXiv:2210.07229",
        prepares="keys of other names and of text are measured, once for a model",
        has_forms=True,
        exports=("checkpoint", "delta", "lora"),
    )
    Config = AnchoredConfig

    def __init__(self, config: AnchoredConfig | None = None) -> None:
        super().__init__(config)
        self.state = AnchoredState()
        self._systems: dict[str, Tensor] = {}
        self._began = False

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        inputs = inner_size(model.config.get_text_config(decoder=True))
        return output_projections(model, lambda count: defaults.edited_blocks(count, inputs))

    @property
    def _share(self) -> float:
        return defaults.STEP if self.config.lr == "auto" else float(self.config.lr)

    @property
    def most_passes(self) -> int:
        return int(self.config.passes)

    def cost(self, shapes: Sequence[tuple[int, int]], edits: int) -> Cost:
        squares = 4 * sum(d * d for d, _ in shapes)
        # The other forms' rows are one a text.
        beside = edits * int(self.config.forms)
        return Cost(
            # The anchors' own metric is on the CPU. Where a turn ends, its inverses stand beside
            # those of the turn before, and where past keys fade, one is inverted in float64.
            memory=2 * squares + max(32 * d * d for d, _ in shapes),
            constants=squares,
            state=squares,
            record=4 * len(shapes) * (edits + beside) ** 2,
            tokens=beside,
        )

    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        self._systems, self._began = {}, not self.state.memories
        with refusing("the anchors"):
            state = self.state if self.state.memories else began(workbench, self.config)
        state = state.on({n: target.parameter.device for n, target in workbench.targets.items()})
        all_forms = [
            forms(workbench, edit, text, state.beginnings, self.config.threshold)
            for edit, text in zip(edits, texts, strict=True)
        ]
        newest = last_of_each(edits)
        waiting = newest.clone()
        # Of every edit's own text: its losses before the first pass, and now.
        first_losses, own_losses = torch.full((2, len(edits)), torch.nan)
        queues = [FormQueue(len(some), self.config.forms) for some in all_forms]
        lefts: dict[str, Tensor] = {}
        systems: dict[str, Tensor] = {}
        for number in range(self.config.passes):
            if not waiting.any():
                # What was learned may have been lost to what was learned after it.
                waiting = newest & lost(workbench, texts, self.config.threshold)
                if not waiting.any():
                    break
            carried = ~(own_losses > defaults.CARRIED * first_losses)
            at_end = ~carried & (number >= defaults.LAST_TOKEN_FROM * self.config.passes)
            owners, picked = next_forms(queues, waiting)
            chosen = [
                all_forms[edit][form].at_answer() if at_end[edit] else all_forms[edit][form]
                for edit, form in zip(owners.tolist(), picked, strict=True)
            ]
            rows = workbench.capture_spots(
                [one.text for one in chosen], [one.places for one in chosen]
            )
            falls, learned = falls_wanted(rows, chosen, self.config.threshold, self._share)
            sums = torch.zeros(len(chosen)).index_add_(0, rows.text, rows.losses)
            for edit, form, known in zip(owners.tolist(), picked, learned.tolist(), strict=True):
                queues[edit].record(form, known)
            own = torch.tensor(picked) == 0
            own_losses[owners[own]] = sums[own]
            if number == 0:
                first_losses = own_losses.clone()
            still = torch.zeros_like(waiting)
            still[owners[~learned]] = True
            waiting = still | (waiting & torch.tensor([queue.pending for queue in queues]))
            if learned.all():
                continue
            shifts, kept = solved(rows, ~learned, falls, owners, state, self.config.ridge)
            if not lefts:
                lefts, systems = kept
            yield shifts
        if systems:
            with refusing("the turn's keys"):
                state = state.after(lefts, systems)
        self.state, self._systems = state, systems

    def state_dict(self) -> dict[str, Tensor]:
        return self.state.tensors()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.state = AnchoredState.of(state)

    def is_constant(self, key: str) -> bool:
        return key.startswith("anchors.")

    def record(self) -> dict[str, Tensor]:
        """The whole state after the turn that measured the anchors; n x n a module later."""
        if self._began:
            return self.state_dict()
        return {f"system.{name}": system for name, system in self._systems.items()}

    def replay(self, record: Mapping[str, Tensor], passes: Sequence[Shifts]) -> None:
        systems = {
            name.removeprefix("system."): system
            for name, system in record.items()
            if name.startswith("system.")
        }
        if record and not systems:
            self.load_state_dict(record)
        elif systems:
            lefts = {name: low_rank(passes[0][name]).left for name in systems}
            self.state = self.state.on({name: left.device for name, left in lefts.items()})
            self.state = self.state.after(lefts, systems)


METHOD = Anchored


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


def began(workbench: Workbench, config: AnchoredConfig) -> AnchoredState:
    """The state before a first turn: anchors measured, nothing remembered."""
    widest = max(target.d for target in workbench.targets.values())
    count = defaults.anchor_texts(widest) if config.anchors == "auto" else int(config.anchors)
    anchors = measured(workbench, count, None if config.text is None else str(config.text))
    memories = {
        name: KeyMemory.empty(one.metric, workbench.targets[name].parameter.device)
        for name, one in anchors.items()
    }
    sizes = {name: one.size for name, one in anchors.items()}
    return AnchoredState(memories, sizes, beginnings(workbench, config.contexts))


def lost(workbench: Workbench, texts: Sequence[Encoded], threshold: float) -> Tensor:
    """(edits,) bool: whether an edit's least likely token is under the threshold now."""
    worst = [float(scored.losses.max()) for scored in workbench.score(texts)]
    return ~(torch.tensor(worst) <= -math.log(threshold))


def low_rank(shift: Shift) -> LowRank:
    """The shift, which this method makes of low rank."""
    if not isinstance(shift, LowRank):
        raise InputError("this is no turn of method anchored")
    return shift


def last_of_each(edits: Sequence[Edit]) -> Tensor:
    """(edits,) bool: false where a later edit of the turn has the same prompt: the newest wins."""
    # Not the prompt's tokens: its last one may have gone to the target.
    places = {edit.prompt.strip(): place for place, edit in enumerate(edits)}
    return torch.tensor([places[edit.prompt.strip()] == place for place, edit in enumerate(edits)])
