"""Texts with one token to look at: an edit's subject, alone and after other words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ultraedit.encoding.subject import last_token, subject_end
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.generate import context_length
from ultraedit.methods.base import Workbench
from ultraedit.records import Edit

# Tokens of what is put before a prompt, in turn (arXiv:2202.05262, section 3.1).
LENGTHS = (5, 10)
SEED = 11


@dataclass(frozen=True)
class Located:
    """A text and one of its tokens.

    Attributes:
        text: The tokens.
        place: Which of them, from 0.
    """

    text: Encoded
    place: int


def prefixes(workbench: Workbench, count: int) -> list[str]:
    """Nothing, and `count` beginnings that the unedited model draws itself; always the same."""
    found = [""]
    with workbench.unedited():
        for number, tokens in enumerate(LENGTHS):
            share = (count - number + len(LENGTHS) - 1) // len(LENGTHS)
            for text in workbench.sample(share, tokens, SEED + number) if share else ():
                words = workbench.tokenizer.decode(text.target, skip_special_tokens=True)
                found.append(f"{words.strip()}. ")
    return found


def located(workbench: Workbench, edit: Edit, fact_token: str, before: str = "") -> Located:
    """An edit with its answer, and the token where the fact is read.

    Raises:
        InputError: the fact is read at a subject that the edit's prompt does not hold.
    """
    encoder = workbench.encoder
    prompt = before + edit.prompt.lstrip() if before else edit.prompt
    text = encoder.encode(prompt, edit.answers[0])
    if fact_token == "last":
        return Located(text, len(text.prompt) - 1)
    end = len(prompt) - len(edit.prompt) + subject_end(edit.prompt, edit.subject or "")
    # A piece that joins the subject's end with the answer belongs to the answer.
    return Located(text, min(last_token(encoder, prompt, end), len(text.prompt) - 1))


def essence(workbench: Workbench, edit: Edit, fact_token: str) -> Located | None:
    """The prompt `{subject} is a`, whose continuation says what a model takes the subject for.

    None for an edit without a subject.

    Its target is one token of no meaning, since the distribution of it is what counts.
    """
    subject = (edit.subject or "").strip()
    if not subject:
        return None
    prompt = f"{subject} is a"
    ids = workbench.encoder.prompt_ids(prompt)
    place = len(ids) - 1
    if fact_token != "last":
        place = last_token(workbench.encoder, prompt, len(subject))
    return Located(Encoded(tuple(ids), (ids[-1],), 1), place)


def by_edit(
    workbench: Workbench, edits: Sequence[Edit], fact_token: str, before: Sequence[str]
) -> list[list[Located]]:
    """Every edit after each of the prefixes that leave room for it, in their order."""
    limit = context_length(workbench.model) or math.inf
    found = [[located(workbench, edit, fact_token, words) for words in before] for edit in edits]
    return [[own[0], *(o for o in own[1:] if len(o.text.ids) <= limit)] for own in found]
