"""Where a subject ends in its prompt, in characters and in tokens."""

from __future__ import annotations

import re

from ultraedit.encoding.tokenise import Encoder
from ultraedit.errors import InputError
from ultraedit.records import Edit


def subject_end(prompt: str, subject: str) -> int:
    """The character after the subject's last occurrence; as a whole word where it is one.

    Raises:
        InputError: the prompt does not name the subject.
    """
    wanted = re.escape(subject.strip())
    for pattern, flags in (
        (rf"(?<!\w){wanted}(?!\w)", 0),
        (wanted, 0),
        (wanted, re.IGNORECASE),
    ):
        found = list(re.finditer(pattern, prompt, flags)) if wanted else []
        if found:
            return found[-1].end()
    raise InputError(f"its subject {subject!r} is not in its prompt {prompt!r}")


def check_subject(encoder: Encoder, edit: Edit, method: str) -> None:
    """Refuse an edit whose subject a method that needs one would not find.

    Raises:
        InputError: it has none, or its prompt does not name it.
    """
    if not edit.subject:
        raise InputError(f"it has no subject; method {method} needs one")
    last_token(encoder, edit.prompt, subject_end(edit.prompt, edit.subject))


def last_token(encoder: Encoder, prompt: str, end: int) -> int:
    """Place of the token that holds the character before `end`, in `encoder.prompt_ids(prompt)`.

    Args:
        encoder: How the prompt is encoded.
        prompt: The prompt, as it is given to the encoder.
        end: A number of characters of it, at least one.

    Raises:
        InputError: the prompt cannot be found again in its chat template, or the tokenizer makes
            nothing of what comes before `end`.
    """
    framed, bare = encoder.framed(prompt), prompt.strip()
    if bare not in framed:
        raise InputError(f"the chat template does not hold the prompt {prompt!r} as it stands")
    end += framed.rfind(bare) - prompt.find(bare)
    ids = encoder.prompt_ids(prompt)
    tokenizer = encoder.tokenizer
    if tokenizer.is_fast:
        spans = tokenizer(framed, add_special_tokens=not encoder.chat, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        held = [place for place, (first, last) in enumerate(spans) if first < last and first < end]
        if not held:
            raise InputError(f"no token of the prompt {prompt!r} holds its subject")
        return min(held[-1], len(ids) - 1)
    # Pieces of a word may join with what follows: then it is the joint piece.
    before = encoder.token_ids(framed[:end])
    if not before:
        raise InputError(f"no token of the prompt {prompt!r} holds its subject")
    same = 0
    while same < min(len(before), len(ids)) and before[same] == ids[same]:
        same += 1
    return min(same - (same == len(before)), len(ids) - 1)
