"""What is read, what is asked about it, and what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """A triple of a knowledge base.

    Attributes:
        subject: As text.
        relation: Its identifier or its name, as in the knowledge base.
        object: As text.
        relation_name: In words; empty if the knowledge base does not say.
    """

    subject: str
    relation: str
    object: str
    relation_name: str = ""


@dataclass(frozen=True, slots=True)
class Questions:
    """Two ways to ask for a fact's object."""

    prompt: str
    rephrase: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record in the fields of UltraEditBench (arXiv:2505.14679).

    Attributes:
        case_id: Unique in the data set.
        prompt: The question that is edited.
        rephrase_prompt: The same question in other words.
        ans: The answer to write.
        loc: A question about another subject, whose answer has to stay.
        loc_ans: Its answer in the knowledge base.
        subject: What the fact is about; it stands in `prompt`.
        relation: As in the knowledge base.
    """

    case_id: str
    prompt: str
    rephrase_prompt: str
    ans: str
    loc: str
    loc_ans: str
    subject: str
    relation: str

    def to_json(self) -> dict[str, Any]:
        """The fields in their order."""
        # `dataclasses.asdict` takes a third of the time of a whole build.
        return {name: getattr(self, name) for name in self.__slots__}
