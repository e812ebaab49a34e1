"""One turn: a method's passes over some edits, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import TurnRefusedError
from ultraedit.evaluation.evaluate import ANSWER_TOKENS
from ultraedit.evaluation.matching import mentions
from ultraedit.linalg.shift import LowRank
from ultraedit.methods.base import Method, Shifts
from ultraedit.progress import no_progress
from ultraedit.records import Edit
from ultraedit.workbench import ModelWorkbench

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Made:
    """What a turn did to the weights.

    Attributes:
        passes: How often shifts were applied.
        shifts: They themselves, pass by pass, on the CPU, where they are to be kept.
        learned: Per edit, whether every target token is now the likeliest; empty where
            that was not asked.
        learned_also: The same in the other form that edits have to hold in; empty where there is
            none.
    """

    passes: int
    shifts: list[Shifts]
    learned: tuple[bool, ...]
    learned_also: tuple[bool, ...]


def make_turn(
    workbench: ModelWorkbench,
    method: Method,
    edits: Sequence[Edit],
    texts: Sequence[Encoded],
    also: Sequence[Encoded] = (),
    *,
    keep_shifts: bool,
    check_learned: bool,
) -> Made:
    """Apply what the method yields, pass by pass.

    Args:
        workbench: The model, edited in place.
        method: Its state goes on.
        edits: At least one.
        texts: The same, as tokens.
        also: The same in the other form that they have to hold in, if there is one.
        keep_shifts: Whether `Made` holds them.
        check_learned: Whether the edits are asked again at the end.

    Raises:
        TurnRefusedError: a shift or a weight is not finite, or the device's memory is full.
            After any exception weights and state are bit for bit as they were.
    """
    state = method.state_dict()
    passes, kept = 0, list[Shifts]()
    learned, learned_also = tuple[bool, ...](), tuple[bool, ...]()
    # A method that knows of no forms gets each as an edit of its own.
    doubled = bool(also) and not method.info.has_forms
    given = (*edits, *edits) if doubled else tuple(edits)
    try:
        with refusing_full_memory(workbench), workbench.transaction():
            with _passes_bar(workbench, method, len(edits)) as advance:
                for shifts in method.passes(
                    workbench, given, (*texts, *also) if doubled else texts
                ):
                    if doubled:
                        shifts = _of_edits(shifts, len(edits))
                    _apply(workbench, shifts)
                    passes += 1
                    advance(1)
                    if keep_shifts:
                        # Off the device: a turn may take a dozen passes.
                        kept.append({n: shift.to(CPU) for n, shift in shifts.items()})
            if check_learned:
                learned = tuple(bool(s.correct.all()) for s in workbench.score(texts))
                learned_also = _hold(workbench, edits, also)
    except BaseException:
        workbench.forget()
        method.load_state_dict(state)
        raise
    workbench.drop((*texts, *also))
    return Made(passes, kept, learned, learned_also)


def _of_edits(shifts: Shifts, edits: int) -> Shifts:
    """Shifts whose rows name the edit that their text is a form of."""
    found = dict(shifts)
    for name, shift in shifts.items():
        if isinstance(shift, LowRank):
            index = shift.edit_index
            found[name] = replace(shift, edit_index=torch.where(index < 0, index, index % edits))
    return found


def _hold(
    workbench: ModelWorkbench, edits: Sequence[Edit], also: Sequence[Encoded]
) -> tuple[bool, ...]:
    """Whether edits hold in the form `also`, teacher-forced or in a free answer.

    A chat model may say `The capital of Australia is Sydney.`, whatever was written.
    """
    held = [bool(s.correct[: s.counted].all()) for s in workbench.score(also)] if also else []
    asked = [place for place, known in enumerate(held) if not known]
    answers = (
        workbench.answers([also[place].prompt for place in asked], ANSWER_TOKENS) if asked else []
    )
    for place, answer in zip(asked, answers, strict=True):
        held[place] = mentions(answer.text, edits[place].answers)
    return tuple(held)


def _passes_bar(
    workbench: ModelWorkbench, method: Method, edits: int
) -> AbstractContextManager[Callable[[int], None]]:
    # A method of one pass makes turns by the thousand; the bar over all of them is enough.
    if method.most_passes == 1:
        return no_progress("", 1)
    return workbench.progress(f"passes over {edits} edits, at most", method.most_passes)


@contextmanager
def refusing_full_memory(workbench: ModelWorkbench) -> Iterator[None]:
    """Say what helps where a device's memory is full.

    Raises:
        TurnRefusedError: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TurnRefusedError(
            f"the device ran out of memory at {workbench.batch_tokens} tokens a batch;"
            " the turn is refused, try fewer batch_tokens"
        ) from error


def _apply(workbench: ModelWorkbench, shifts: Shifts) -> None:
    for name, shift in shifts.items():
        if not shift.is_finite():
            raise TurnRefusedError(f"the shift of {name} is not finite; the turn is refused")
    workbench.apply(shifts)
    if not workbench.is_finite():
        raise TurnRefusedError("an edited weight would not be finite; the turn is refused")
