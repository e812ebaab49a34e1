"""The forms of one edit: its prompt alone, in the chat template, and behind other beginnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ultraedit.encoding.subject import last_token, subject_or_likely_end
from ultraedit.encoding.tokenise import Encoded, Encoder
from ultraedit.errors import InputError
from ultraedit.evaluation.generation import context_length
from ultraedit.methods.anchored import derive
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


def beginnings(bench: Workbench, count: int) -> tuple[str, ...]:
    """`count` beginnings of text that the unedited model draws; the same ones every time."""
    found: list[str] = []
    with bench.unedited():
        for number, tokens in enumerate(derive.LENGTHS):
            share = (count - number + len(derive.LENGTHS) - 1) // len(derive.LENGTHS)
            for text in bench.sample(share, tokens, SEED + number) if share > 0 else ():
                words = bench.tokenizer.decode(text.target, skip_special_tokens=True)
                found.append(f"{' '.join(words.split())}. ")
    return tuple(found)


def forms(
    bench: Workbench,
    edit: Edit,
    text: Encoded,
    before: Sequence[str],
    threshold: float,
    chat: bool,
) -> list[Form]:
    """The edit's own text first, then its others; one that the model has no room for is left out.

    Args:
        bench: Whose encoder says how the edit itself is read.
        edit: With its subject, or without.
        text: The edit, as it was encoded.
        before: Beginnings.
        threshold: The probability that is asked of the edit's own text, and of its chat form.
        chat: Whether there is a form in the chat template where the edit itself is not in it.
    """
    end = subject_or_likely_end(edit)
    found = [Form(text, (_place(bench.encoder, edit.prompt, end, text),), threshold)]
    answer = edit.answers[0]
    asked: list[tuple[Encoder, str, float]] = []
    if chat and not bench.encoder.chat and getattr(bench.tokenizer, "chat_template", None):
        asked.append((replace(bench.encoder, chat=True), "", threshold))
    asked += [(bench.encoder, words, min(derive.BEHIND, threshold)) for words in before]
    room = context_length(bench.model) or math.inf
    for encoder, words, probability in asked:
        prompt = words + edit.prompt.lstrip() if words else edit.prompt
        try:
            own = encoder.encode(prompt, answer)
            place = _place(encoder, prompt, end + len(prompt) - len(edit.prompt), own)
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
