"""How far a set moves what the base says to things that no edit is about."""

from __future__ import annotations

from collections.abc import Sequence

from ultraedit.editor import Editor
from ultraedit.encoding.tokenise import Encoded

TEXTS = 16
BEGIN_TOKENS, ANSWER_TOKENS = 12, 16
SEED = 20261128


def base_texts(editor: Editor) -> list[Encoded]:
    """Beginnings that the unedited model draws, each with its own greedy continuation."""
    workbench = editor.workbench
    with editor.unedited():
        drawn = workbench.sample(TEXTS, BEGIN_TOKENS, SEED)
        prompts = [(*text.prompt, *text.target) for text in drawn]
        said = workbench.answers(prompts, ANSWER_TOKENS)
    return [
        Encoded(prompt, answer.ids, len(answer.ids))
        for prompt, answer in zip(prompts, said, strict=True)
    ]


def agreement(editor: Editor, texts: Sequence[Encoded]) -> float:
    """The share of the continuations' tokens that are still the likeliest."""
    scored = editor.workbench.score(texts)
    editor.workbench.drop(texts)
    tokens = sum(len(one.correct) for one in scored)
    return sum(int(one.correct.sum()) for one in scored) / tokens
