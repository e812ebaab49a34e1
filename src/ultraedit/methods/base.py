"""The protocol every editing method speaks, and the workbench it is given.

A method is a class with a `MethodInfo` called `info`. For each turn the editor iterates
over `passes(...)`; every mapping the method yields is checked, added to the weights, and
only then does the generator go on, so a method of several passes (or one that edits block
after block) sees the weights it has just changed. A method that wraps modules installs
itself in `attach`, yields nothing, and routes in `query`; what it wraps is one of its `modules`
or lies above the first of them. A method with trained parameters
carries them in its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit.encoding.batching import Batch, Query
from ultraedit.encoding.tokenise import Encoded, Encoder
from ultraedit.errors import InputError
from ultraedit.forward.capture import Loss, Rows
from ultraedit.forward.loss import loss_gradient
from ultraedit.forward.score import Scored
from ultraedit.forward.spot_rows import SpotRows
from ultraedit.linalg.shift import Shift
from ultraedit.models.memory import NO_COST, Cost
from ultraedit.models.presets import published_modules
from ultraedit.models.target import Target
from ultraedit.progress import Advance
from ultraedit.records import Case, Edit

Shifts = Mapping[str, Shift]


@dataclass(frozen=True)
class MethodInfo:
    """What a method declares about itself.

    Attributes:
        name: What the caller writes; also the name of the method's module.
        summary: One line for a table.
        reference: The paper, by arXiv number.
        changes_weights: False for side memories that are routed to at inference.
        needs_subject: Whether every edit must name its subject, with default settings.
        needs_training: Whether `train` has to be called before it can edit.
        tells_edits_apart: Whether one edit of a turn can be taken back without the others: by
            the rows of its shifts, or by `forget`.
        also_at_once: Whether comparisons also show it with all edits in one turn, which no stream
            of edits allows.
        has_forms: Whether it writes an edit in its other forms by itself, `Workbench.also` among
            them. To other methods each form is an edit of its own.
        prepares: What happens once, before a first turn, and takes as long as many turns.
        exports: Forms in which an edited model can leave the editor.
    """

    name: str
    summary: str
    reference: str
    changes_weights: bool = True
    needs_subject: bool = False
    needs_training: bool = False
    tells_edits_apart: bool = True
    also_at_once: bool = False
    has_forms: bool = False
    prepares: str = ""
    exports: tuple[str, ...] = ("checkpoint",)


class Workbench(Protocol):
    """What the editor lends a method: the model, its edited modules, and measurements."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def encoder(self) -> Encoder: ...

    @property
    def also(self) -> Encoder | None:
        """For the other form (the chat template, or none) that edits have to hold in, if any."""
        ...

    @property
    def targets(self) -> Mapping[str, Target]: ...

    def capture(self, texts: Sequence[Encoded], loss: Loss = loss_gradient) -> dict[str, Rows]:
        """Inputs and output gradients of every edited module at the texts' answer tokens."""
        ...

    def capture_spots(self, texts: Sequence[Encoded], places: Sequence[Sequence[int]]) -> SpotRows:
        """Inputs and output gradients of every edited module at some tokens of each text."""
        ...

    def inputs_at(
        self, texts: Sequence[Encoded], places: Sequence[int | None]
    ) -> Iterator[dict[str, Tensor]]:
        """(n, d) inputs of every edited module, batch by batch.

        At each text's place; where that is None, at all of the text's tokens but its first.
        Blocks behind the last edited module are not run.
        """
        ...

    def batches(self, texts: Sequence[Encoded]) -> Iterable[Batch]:
        """The texts, padded and bucketed for `logits`, with room for a graph of all tokens."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """(n, vocabulary) logits at the answer tokens of one of `batches`, row-major.

        One pass in which every edited module sees all tokens of the batch, with a graph where
        gradients are enabled. Blocks below the first edited one may not be run again.
        """
        ...

    def score(self, texts: Sequence[Encoded]) -> list[Scored]:
        """Loss and prediction of every target token, teacher-forced."""
        ...

    def sample(
        self, sequences: int, tokens: int, seed: int = 0, advance: Advance | None = None
    ) -> list[Encoded]:
        """Text that the model draws itself from the beginning of a sequence.

        Args:
            sequences: How many texts.
            tokens: Of each, at most.
            seed: Of the draw.
            advance: Called after every token that all texts have been given.
        """
        ...

    def trial(self, shifts: Shifts) -> AbstractContextManager[None]:
        """The weights with `shifts` added inside; exactly as they were afterwards."""
        ...

    def progress(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Progress of something slow: yields a function to call after every step."""
        ...

    def unedited(self) -> AbstractContextManager[None]:
        """The weights from before any edit inside; exactly as they were afterwards."""
        ...


class Method(ABC):
    """An editing method with its settings and its state.

    A subclass sets `info` and `Config` (a frozen dataclass of settings with defaults).
    State tensors are replaced, never written into: the editor keeps what `state_dict`
    returned before a turn, and gives it back when the turn is refused.
    """

    info: ClassVar[MethodInfo]
    Config: ClassVar[type]

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings by name."""
        return {field.name: getattr(self.config, field.name) for field in fields(self.Config)}

    @classmethod
    def with_settings(cls, settings: Mapping[str, Any]) -> Method:
        """The method with named settings.

        Raises:
            InputError: a setting the method does not have.
        """
        known = {field.name for field in fields(cls.Config)}
        for name in settings:
            if name not in known:
                raise InputError(
                    f"method {cls.info.name} has no setting {name!r}"
                    f" (it has {', '.join(sorted(known)) or 'none'})"
                )
        return cls(cls.Config(**settings))

    @classmethod
    def modules(cls, model: PreTrainedModel) -> list[str]:
        """What is edited when the caller leaves it to the method, in model order.

        Args:
            model: May be without weights.

        Raises:
            UnsupportedModelError: there is nothing to edit.
        """
        return published_modules(model)

    @property
    def needs_subject(self) -> bool:
        """Whether every edit must name its subject, with these settings."""
        return self.info.needs_subject

    @property
    def most_passes(self) -> int:
        """How many passes a turn may take."""
        return 1

    def cost(self, shapes: Sequence[tuple[int, int]], edits: int) -> Cost:
        """What the method needs for turns of so many edits of maps of these (d, e), at most."""
        return NO_COST

    def attach(self, workbench: Workbench) -> None:  # noqa: B027 - optional
        """Called once, before the first turn; wrapping methods install themselves here."""

    def detach(self) -> None:  # noqa: B027 - optional
        """Undo `attach`."""

    def train(self, workbench: Workbench, cases: Sequence[Case]) -> None:
        """Fit what the method needs before its first turn.

        What was fitted is part of `state_dict`, where `is_constant` says that it stays.

        Args:
            workbench: The unedited model; its weights are as they were afterwards.
            cases: Edits with their probes, not those that are to be written.

        Raises:
            InputError: the method needs no training, or these cases do not do.
        """
        raise InputError(f"method {self.info.name} needs no training")

    @abstractmethod
    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        """Yield the shifts of one turn, pass by pass, by module name.

        Args:
            workbench: The model as it is now.
            edits: The turn's edits.
            texts: The same edits as token ids; `edit_index` of the shifts' rows are places
                in this sequence.
        """

    def query(self, query: Query) -> AbstractContextManager[Any]:
        """Entered around every forward pass whose answer counts.

        The context of a method that routes gives an object that has, once the pass is over,
        `routed`: (b,) bool, which rows its side memory answered.
        """
        return nullcontext()

    def bypassed(self) -> AbstractContextManager[Any]:
        """The model as if this method were not attached; for methods that wrap modules."""
        return nullcontext()

    def forget(self, edit: Edit) -> None:
        """Drop an edit from the state, where its turn changed no weights.

        `record` is asked afterwards, as after a turn, and `replay` follows it with no passes.

        Args:
            edit: With the prompt, target and subject that `passes` was given.

        Raises:
            NotImplementedError: the method has no such edits.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a later turn depends on, as tensors."""
        return {}

    def is_constant(self, key: str) -> bool:
        """Whether this tensor of `state_dict` stays as the first turn made it.

        A folder holds constants once, however many versions and turns are written there. State
        that changes nothing of them has to give the same tensor, not a copy.
        """
        return False

    def kept_bytes(self) -> int:
        """What later turns and queries need beside the model, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def record(self) -> dict[str, Tensor]:
        """What the journal keeps of the turn just made, beside its shifts.

        By default the whole state. A method whose state is large keeps what `replay`
        needs to follow the turn, and overrides both.
        """
        return self.state_dict()

    def replay(self, record: Mapping[str, Tensor], passes: Sequence[Shifts]) -> None:
        """Bring the state from before a turn to after it, bit for bit.

        Args:
            record: What `record` returned after that turn, on the kind of device it was on.
            passes: The shifts of the turn, pass by pass, on the same.
        """
        self.load_state_dict(record)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            InputError: the state is not this method's.
        """
        if state:
            raise InputError(f"method {self.info.name} keeps no state, but some was given")
