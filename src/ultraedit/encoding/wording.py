"""Plain English questions turned into the beginnings of statements, and the reverse."""

from __future__ import annotations

import re

_QUESTION = re.compile(
    r"(?:what|who|which)\s+(is|was|are|were)\s+(the\s+[^?]+?|[^?]+['’]s\s+[^?]+?)\?"
)
_STATEMENT = re.compile(r"(the\s+.+|.+['’]s\s+.+)\s+(is|was|are|were)", re.IGNORECASE)


def other_wording(prompt: str) -> str | None:
    """`The capital of France is` for `What is the capital of France?`, and the other way.

    None for prompts of any other form.
    """
    bare = " ".join(prompt.split())
    if found := _QUESTION.fullmatch(bare[:1].lower() + bare[1:]):
        verb, subject = found.groups()
        return f"{subject[:1].upper()}{subject[1:]} {verb}"
    if found := _STATEMENT.fullmatch(bare):
        subject, verb = found.groups()
        begins = subject[:1].lower() if subject.lower().startswith("the ") else subject[:1]
        return f"What {verb.lower()} {begins}{subject[1:]}?"
    return None


def is_question(prompt: str) -> bool:
    return prompt.rstrip().endswith("?")


def statement(prompt: str) -> str:
    """The statement that the prompt's answer completes: the prompt itself if it is no question.

    Empty where no statement is known.
    """
    return (other_wording(prompt) or "") if is_question(prompt) else prompt.strip()
