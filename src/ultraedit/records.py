"""The nouns of the project: edits, probes, cases and turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ultraedit.errors import InputError

ProbeKind = Literal[
    "rephrase", "locality", "persona", "multihop", "reasoning", "aliasing", "logical"
]
PROBE_KINDS: tuple[str, ...] = get_args(ProbeKind)

Answers = str | tuple[str, ...]


def _answers(value: str | Iterable[str], what: str) -> Answers:
    """One answer as a string, several accepted ones as a tuple; empty ones are refused."""
    answers = value if isinstance(value, str) else tuple(value)
    if not answers:
        raise InputError(f"{what} is empty")
    for answer in (answers,) if isinstance(answers, str) else answers:
        if not isinstance(answer, str):
            raise InputError(f"{what} must be text, not {type(answer).__name__}")
        if not answer.strip():
            raise InputError(f"{what} is empty")
        check_text(answer, what)
    return answers


def _prompt(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{what} must be text, not {type(value).__name__}")
    if not value.strip():
        raise InputError(f"{what} is empty")
    check_text(value, what)


def check_text(value: object, what: str) -> None:
    """Refuse what is no text, or could not be written to any file.

    Raises:
        InputError: naming `what`.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} must be text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is no valid Unicode: {error.reason}") from None


@dataclass(frozen=True)
class Edit:
    """One fact to write: after `prompt` the model is to answer `target`.

    Args:
        prompt: The question or the beginning of a statement.
        target: The answer, or several accepted ones, of which the first is written.
        subject: What the fact is about; only methods that say `needs_subject` read it.
        id: Joins the edit with its results; made from its position where absent.

    Raises:
        InputError: prompt or target is empty, or one of the four is not text.
    """

    prompt: str
    target: Answers
    subject: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        _prompt(self.prompt, "prompt")
        object.__setattr__(self, "target", _answers(self.target, "target"))
        for what in ("subject", "id"):
            if getattr(self, what) is not None:
                check_text(getattr(self, what), what)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every accepted answer; the first is the one that is written."""
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Probe:
    """One question that tells what an edit did.

    `rephrase`, `persona` and `aliasing` (another name of the subject) probes expect the edited
    answer, `multihop`, `reasoning` and `logical` (a reversed relation, say) what follows from it;
    a `locality` probe expects the answer that the edit must not change.

    Raises:
        InputError: unknown kind, or an empty prompt or target.
    """

    kind: ProbeKind
    prompt: str
    target: Answers

    def __post_init__(self) -> None:
        if self.kind not in PROBE_KINDS:
            raise InputError(f"probe kind {self.kind!r} is none of {', '.join(PROBE_KINDS)}")
        _prompt(self.prompt, f"{self.kind} prompt")
        object.__setattr__(self, "target", _answers(self.target, f"{self.kind} target"))

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Case:
    """An edit with the probes that judge it."""

    edit: Edit
    probes: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "probes", tuple(self.probes))


@dataclass(frozen=True)
class Turn:
    """What one call of `Editor.edit` did.

    Attributes:
        index: Number of the turn, from 0, over the editor's whole life.
        edits: The edits, in the order they were given.
        learned: Per edit, whether the edited model now gives every target token the
            highest probability (teacher-forced); empty with `check_learned=False`.
        learned_chat: The same in the chat template, where the edits are written in both forms; an
            answer that holds the target in its first sentence counts as well.
        passes: How often the method solved and applied a shift.
        seconds: Wall-clock seconds of the turn.
    """

    index: int
    edits: tuple[Edit, ...]
    learned: tuple[bool, ...]
    passes: int
    seconds: float
    learned_chat: tuple[bool, ...] = ()
