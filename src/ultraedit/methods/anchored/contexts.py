"""The forms of one edit: as it is given, in or without the chat template, reworded, and behind
other beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraedit.encoding.subject import last_token, subject_or_likely_end
from ultraedit.encoding.tokenise import Encoded, Encoder
from ultraedit.encoding.wording import is_question, other_wording, statement
from ultraedit.errors import InputError
from ultraedit.forward.generate import context_length
from ultraedit.methods.anchored import defaults
from ultraedit.methods.base import Workbench
from ultraedit.records import Edit

SEED = 11


@dataclass(frozen=True)
class Form:
    """One text that is to end in an edit's answer.

    Attributes:
        text: The tokens.
        places: Those of them that it is written at, from 0: the subject's last.
        asked: The probability that every answer token is to have.
    """

    text: Encoded
    places: tuple[int, ...]
    asked: float

    def at_answer(self) -> Form:
        """The same text, written at the tokens that the answer is read off."""
        return replace(self, places=tuple(range(len(self.text.prompt) - 1, len(self.text.ids) - 1)))


class FormQueue:
    """Which of an edit's other forms are read next: those not yet learned, in turn.

    Args:
        count: Of all forms; number 0 is the edit's own, which is always read.
        at_once: How many of the others a pass reads.
    """

    def __init__(self, count: int, at_once: int) -> None:
        self._waiting = list(range(1, count))
        self._learned: list[int] = []
        self._at_once = at_once

    def next(self) -> list[int]:
        """Forms to read now; where all were learned when they were last read, the oldest."""
        return [*self._waiting, *self._learned][: self._at_once]

    @property
    def pending(self) -> bool:
        """Whether any was not learned when it was last read, or never read."""
        return bool(self._waiting) and self._at_once > 0

    def record(self, form: int, learned: bool) -> None:
        """Note whether a form was learned when it was read; it goes to the end of its line."""
        if form == 0:
            return
        for line in (self._waiting, self._learned):
            if form in line:
                line.remove(form)
        (self._learned if learned else self._waiting).append(form)


def next_forms(queues: Sequence[FormQueue], waiting: Tensor) -> tuple[Tensor, list[int]]:
    """The texts that a pass reads: of every waiting edit its own, then some of its other forms.

    Returns:
        (n,) int64 each text's edit, ascending, and the form that it is; 0 is the edit's own.
    """
    owners, picked = [], []
    for edit in waiting.nonzero()[:, 0].tolist():
        for form in (0, *queues[edit].next()):
            owners.append(edit)
            picked.append(form)
    return torch.tensor(owners), picked


def beginnings(workbench: Workbench, count: int) -> tuple[str, ...]:
    """`count` beginnings of text that the unedited model draws; the same ones every time."""
    found: list[str] = []
    with workbench.unedited():
        for number, tokens in enumerate(defaults.LENGTHS):
            share = (count - number + len(defaults.LENGTHS) - 1) // len(defaults.LENGTHS)
            for text in workbench.sample(share, tokens, SEED + number) if share > 0 else ():
                words = workbench.tokenizer.decode(text.target, skip_special_tokens=True)
                found.append(f"{' '.join(words.split())}. ")
    return tuple(found)


def forms(
    workbench: Workbench,
    edit: Edit,
    text: Encoded,
    before: Sequence[str],
    threshold: float,
) -> list[Form]:
    """The edit's own text first, then its others; one that the model has no room for is left out.

    Args:
        workbench: Whose encoder says how the edit itself is read.
        edit: With its subject, or without.
        text: The edit, as it was encoded.
        before: Beginnings.
        threshold: The probability that is asked of the edit's own text, and of its other form.
    """
    end = subject_or_likely_end(edit)
    found = [Form(text, (_place(workbench.encoder, edit.prompt, end, text),), threshold)]
    answer = edit.answers[0]
    asked: list[tuple[Encoder, Edit, int, float, str]] = []
    if workbench.also is not None:
        # Chat models answer in sentences. A bare answer in the template would teach them, for all
        # names, to say two words and to end.
        begun = statement(edit.prompt) if workbench.also.chat else ""
        asked.append((workbench.also, edit, end, threshold, begun))
    behind = min(defaults.BEHIND, threshold)
    if (wording := other_wording(edit.prompt)) is not None:
        # A question is asked in the template; what is to be completed stands without one.
        ways = [workbench.encoder, *([workbench.also] if workbench.also else [])]
        fitting = [way for way in ways if way.chat == is_question(wording)]
        encoder = replace((fitting or ways)[0], append_eos=False)
        reworded = replace(edit, prompt=wording)
        asked.append((encoder, reworded, subject_or_likely_end(reworded), behind, ""))
    # That the answer ends there is learned in the prompt's own surroundings.
    encoder = replace(workbench.encoder, append_eos=False)
    for words in before:
        prompt = words + edit.prompt.lstrip()
        place = end + len(prompt) - len(edit.prompt)
        asked.append((encoder, replace(edit, prompt=prompt), place, behind, ""))
    room = context_length(workbench.model) or math.inf
    for encoder, one, end, probability, begun in asked:
        try:
            own = encoder.encode(one.prompt, answer, begun)
            place = _place(encoder, one.prompt, end, own)
        except InputError:
            # A template that changes the prompt, or joins it with the answer.
            continue
        if len(own.ids) <= room:
            found.append(Form(own, (place,), probability))
    return found


def _place(encoder: Encoder, prompt: str, end: int, text: Encoded) -> int:
    try:
        place = last_token(encoder, prompt, end)
    except InputError:
        place = len(text.prompt) - 1
    # A piece that joins the subject's end with the answer belongs to the answer. And a text's
    # first token attends to nothing: all texts give nearly the same key there, so that what is
    # written at it is written for all of them.
    return min(max(place, 1), len(text.prompt) - 1)
