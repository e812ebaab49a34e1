"""Questions from a language model that is loaded here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ultraedit.benchmark_data.asking import relation_in_words
from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.benchmark_data.rules import refused_questions
from ultraedit.session import Session

BATCH = 64
MOST_TOKENS = 40
# Two sets of examples, so that the two questions come out in other words.
EXAMPLES = (
    (
        ("France", "capital", "What is the capital of France?"),
        ("Hamlet", "author", "Who wrote Hamlet?"),
        ("Marie Curie", "place of birth", "Where was Marie Curie born?"),
    ),
    (
        ("France", "capital", "Which city does France have as its capital?"),
        ("Hamlet", "author", "By whom was Hamlet written?"),
        ("Marie Curie", "place of birth", "In which city did the life of Marie Curie begin?"),
    ),
)  # fmt: skip


class ModelWriter:
    """Continues examples, greedily; what breaks a rule is refused, and there is no second try.

    Args:
        session: Over the model; nothing in it is edited.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def name(self) -> str:
        return f"{self.session.base_name}, a language model"

    def write(self, facts: Sequence[Fact]) -> Iterator[Questions | str]:
        """Two questions for every fact, or why there are none."""
        for first in range(0, len(facts), BATCH):
            batch = facts[first : first + BATCH]
            prompts = [_prompt(fact, examples) for examples in EXAMPLES for fact in batch]
            workbench = self.session.workbench
            ids = [workbench.encoder.prompt_ids(prompt) for prompt in prompts]
            answers = [one.text for one in workbench.answers(ids, MOST_TOKENS)]
            for fact, one, other in zip(
                batch, answers[: len(batch)], answers[len(batch) :], strict=True
            ):
                questions = Questions(one, other)
                yield refused_questions(fact, questions, fact.object) or questions


def _prompt(fact: Fact, examples: Sequence[tuple[str, str, str]]) -> str:
    shown = [*examples, (fact.subject, relation_in_words(fact), "")]
    return "\n\n".join(
        f"Subject: {subject}\nRelation: {relation}\nQuestion: {question}".rstrip()
        for subject, relation, question in shown
    )
