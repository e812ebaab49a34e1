"""Where a subject ends in its prompt, in characters and in tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

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


def likely_subject_end(prompt: str) -> int:
    """The character after what a prompt seems to be about, where no subject is given.

    That is the longest span of names and numbers: words with a capital or a digit, with small
    words between two of them. A question word that begins the prompt is no name. Where nothing
    looks like a name, it is the last word that is not a small one. On the
    published records of CounterFact, zsRE and WikiBigEdit this is where the annotated subject
    ends in 97, 93 and 77 of 100 (benchmarks/subjects.py).
    """
    return _likely_span(prompt)[1]


def likely_subject(prompt: str) -> str:
    """What a prompt seems to be about, by the rule of `likely_subject_end`; may be empty."""
    return prompt[slice(*_likely_span(prompt))]


def _likely_span(prompt: str) -> tuple[int, int]:
    words = _words(prompt)
    if not words:
        return 0, len(prompt.rstrip()) or 1
    named = [
        word.is_name and not (place == 0 and word.is_small) for place, word in enumerate(words)
    ]
    spans: list[tuple[int, int]] = []
    first = last = -1
    for place, word in enumerate(words):
        joins = first >= 0 and last == place - 1
        if named[place]:
            if not joins or words[place - 1].closes:
                first = place
            last = place
            spans.append((words[first].start, word.end))
        elif joins and not words[place - 1].closes and not word.closes:
            # "of", "the" and the like hold two names together; a longer word does not.
            following = words[place + 1 : place + 2]
            reach = 3 if following and following[0].is_small else 2
            bridge = word.is_small and any(named[place + 1 : place + reach])
            last = place if bridge else -1
        else:
            last = -1
    if spans:
        return max(spans, key=lambda span: span[1] - span[0])
    last_word = next((word for word in reversed(words) if not word.is_small), words[-1])
    return last_word.start, last_word.end


# Words that ask or join, in English; prompts in other languages lose little without theirs.
_SMALL = frozenset([
    "what", "which", "who", "whom", "whose", "when", "where", "why", "how", "in", "on", "at", "of",
    "by", "for", "from", "to", "the", "a", "an", "is", "was", "are", "were", "did", "does", "do",
    "has", "have", "had", "that", "this", "it", "its", "and", "or", "as", "with", "into", "de",
    "la", "le", "du", "der", "den", "van", "von", "&",
])  # fmt: skip
_OPENING, _CLOSING = "\"'([“‘«", "\"')],.;:!?”’»"


@dataclass(frozen=True)
class _Word:
    """A word of a prompt, from `start` to `end`; `closes` where a sign follows that parts."""

    start: int
    end: int
    text: str
    closes: bool

    @property
    def is_small(self) -> bool:
        return self.text.lower() in _SMALL

    @property
    def is_name(self) -> bool:
        return any(c.isupper() or c.isdigit() for c in self.text)


def _words(prompt: str) -> list[_Word]:
    found = []
    for match in re.finditer(r"\S+", prompt):
        whole = match.group()
        left = len(whole) - len(whole.lstrip(_OPENING))
        text = whole[left:].rstrip(_CLOSING)
        after = whole[left + len(text) :]
        text = re.sub(r"['’]s$", "", text)
        if text:
            start = match.start() + left
            found.append(_Word(start, start + len(text), text, after[:1] in set(",;:?!")))
    return found


def subject_or_likely_end(edit: Edit) -> int:
    """Where an edit's subject ends in its prompt; where its subject is not there, `likely`."""
    if edit.subject:
        try:
            return subject_end(edit.prompt, edit.subject)
        except InputError:
            pass
    return likely_subject_end(edit.prompt)


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
