"""One turn: a method's passes over some edits, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from ultraedit.bench import Bench
from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import TurnRefusedError
from ultraedit.methods.base import Method, Shifts
from ultraedit.progress import no_progress
from ultraedit.records import Edit


@dataclass(frozen=True)
class Made:
    """What a turn did to the weights.

    Attributes:
        passes: How often shifts were applied.
        shifts: They themselves, pass by pass, where they are to be kept.
        learned: Per edit, whether every target token is now the likeliest; empty where
            that was not asked.
    """

    passes: int
    shifts: list[Shifts]
    learned: tuple[bool, ...]


def make_turn(
    bench: Bench,
    method: Method,
    edits: Sequence[Edit],
    texts: Sequence[Encoded],
    *,
    keep_shifts: bool,
    check_learned: bool,
) -> Made:
    """Apply what the method yields, pass by pass.

    Args:
        bench: The model, edited in place.
        method: Its state goes on.
        edits: At least one.
        texts: The same, as tokens.
        keep_shifts: Whether `Made` holds them.
        check_learned: Whether the edits are asked again at the end.

    Raises:
        TurnRefusedError: a shift or a weight is not finite, or the device's memory is full.
            After any exception weights and state are bit for bit as they were.
    """
    state = method.state_dict()
    passes, kept = 0, list[Shifts]()
    learned: tuple[bool, ...] = ()
    try:
        with refusing_full_memory(bench), bench.transaction():
            with _passes_bar(bench, method, len(edits)) as advance:
                for shifts in method.passes(bench, edits, texts):
                    _apply(bench, shifts)
                    passes += 1
                    advance(1)
                    if keep_shifts:
                        kept.append(dict(shifts))
            if check_learned:
                learned = tuple(bool(s.correct.all()) for s in bench.score(texts))
    except BaseException:
        bench.forget()
        method.load_state_dict(state)
        raise
    bench.drop(texts)
    return Made(passes, kept, learned)


def _passes_bar(
    bench: Bench, method: Method, edits: int
) -> AbstractContextManager[Callable[[int], None]]:
    # A method of one pass makes turns by the thousand; the bar over all of them is enough.
    if method.most_passes == 1:
        return no_progress("", 1)
    return bench.progress(f"passes over {edits} edits, at most", method.most_passes)


@contextmanager
def refusing_full_memory(bench: Bench) -> Iterator[None]:
    """Say what helps where a device's memory is full.

    Raises:
        TurnRefusedError: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TurnRefusedError(
            f"the device ran out of memory at {bench.batch_tokens} tokens a batch;"
            " the turn is refused, try fewer batch_tokens"
        ) from error


def _apply(bench: Bench, shifts: Shifts) -> None:
    for name, shift in shifts.items():
        if not shift.is_finite():
            raise TurnRefusedError(f"the shift of {name} is not finite; the turn is refused")
    bench.apply(shifts)
    if not bench.is_finite():
        raise TurnRefusedError("an edited weight would not be finite; the turn is refused")
