"""From a batch of facts to records: pure, and the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from ultraedit.benchmark_data.facts import Fact, Questions, Record
from ultraedit.benchmark_data.rules import (
    folded,
    refused_fact,
    refused_locality,
    refused_questions,
)
from ultraedit.benchmark_data.seen import Seen, hashed

Targets = Literal["true", "counterfactual"]
TARGETS: tuple[str, ...] = get_args(Targets)
# Of every so many subjects one is never edited: locality questions are about these.
HELD_OUT = 8
TRIES = 20


class Writer(Protocol):
    """Writes questions about facts."""

    @property
    def name(self) -> str: ...

    def write(self, facts: Sequence[Fact]) -> Iterator[Questions | str]:
        """Two questions for every fact in its order, or why there are none.

        It reads little ahead: who stops early has not paid for the rest.
        """
        ...


@dataclass
class Tally:
    """What became of a batch.

    Attributes:
        facts: How many were read.
        records: How many became records.
        refused: Rule -> how many facts it refused.
        relations: Relation -> how many records.
        lengths: Field -> number of characters -> how many records.
    """

    facts: int = 0
    records: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)

    def count(self, record: Record) -> None:
        self.records += 1
        self.relations[record.relation] += 1
        for name in ("prompt", "rephrase_prompt", "ans", "loc", "loc_ans"):
            self.lengths.setdefault(name, Counter())[len(getattr(record, name))] += 1

    def add(self, other: Tally) -> None:
        self.facts += other.facts
        self.records += other.records
        self.refused += other.refused
        self.relations += other.relations
        for name, lengths in other.lengths.items():
            self.lengths.setdefault(name, Counter()).update(lengths)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "facts": self.facts, "records": self.records, "refused": dict(self.refused),
            "relations": dict(self.relations),
            "lengths": {name: dict(found) for name, found in self.lengths.items()},
        }  # fmt: skip

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Tally:
        """What `to_json` gave."""
        lengths = {
            name: Counter({int(length): count for length, count in found.items()})
            for name, found in content["lengths"].items()
        }
        return Tally(
            content["facts"], content["records"], Counter(content["refused"]),
            Counter(content["relations"]), lengths,
        )  # fmt: skip


def screened(facts: Sequence[Fact], seen: Seen, tally: Tally) -> list[Fact]:
    """Facts that rules allow, one for every subject and relation."""
    allowed = []
    for fact in facts:
        if (reason := refused_fact(fact)) is not None:
            tally.refused[reason] += 1
        else:
            allowed.append(fact)
    new = seen.add([hashed(f"{folded(one.subject)}\n{one.relation}") for one in allowed])
    tally.facts += len(facts)
    tally.refused["another fact of the subject and relation"] += new.count(False)
    return [fact for fact, is_new in zip(allowed, new, strict=True) if is_new]


def held_out(facts: Sequence[Fact], alone: bool) -> set[str]:
    """Subjects that locality questions are asked about; none of them is ever edited.

    Args:
        facts: Of a batch.
        alone: Whether there is no other batch; a few facts then give a subject too.
    """
    hashes = {fact.subject: hashed(folded(fact.subject)) for fact in facts}
    if alone:
        ranked = sorted(hashes, key=lambda subject: (hashes[subject], subject))
        return set(ranked[: -(-len(ranked) // HELD_OUT)])
    return {subject for subject, value in hashes.items() if value % HELD_OUT == 0}


def records_of(
    facts: Sequence[Fact],
    writer: Writer,
    *,
    targets: Targets,
    chance: random.Random,
    alone: bool,
    true_objects: dict[tuple[str, str], set[str]],
    most: int | None,
    tally: Tally,
    advance: Callable[[int], None],
) -> Iterator[Record]:
    """The records of a batch, numbered from 0 in `case_id`.

    Args:
        facts: As `screened` leaves them.
        writer: Of the questions.
        targets: Whether the answer to write is the knowledge base's, or another one of the
            relation.
        chance: The batch's own.
        alone: See `held_out`.
        true_objects: Folded subject and relation -> all folded objects of the batch.
        most: How many records are wanted.
        tally: Counts what becomes of the facts.
        advance: Called with 1 for every fact done.
    """
    outside = held_out(facts, alone)
    pool = [fact for fact in facts if fact.subject in outside]
    facts = [fact for fact in facts if fact.subject not in outside]
    tally.refused["held out for locality"] += len(pool)
    advance(len(pool))
    chance.shuffle(pool)
    # Each is asked several times: they may have to be paid for.
    pool = pool[: max(TRIES, -(-min(len(facts), most or len(facts)) // 4))]
    local = [
        (questions.prompt, fact.object)
        for fact, questions in zip(pool, writer.write(pool), strict=True)
        if isinstance(questions, Questions)
        and refused_questions(fact, questions, fact.object) is None
    ]
    others = _objects(facts) if targets == "counterfactual" else {}
    made = 0
    for fact, questions in zip(facts, writer.write(facts), strict=True):
        if most is not None and made == most:
            return
        advance(1)
        found = _record(fact, questions, local, others, true_objects, chance)
        if isinstance(found, str):
            tally.refused[found] += 1
            continue
        made += 1
        tally.count(found)
        yield found


def _record(
    fact: Fact,
    questions: Questions | str,
    local: Sequence[tuple[str, str]],
    others: dict[str, list[str]],
    true_objects: dict[tuple[str, str], set[str]],
    chance: random.Random,
) -> Record | str:
    """The record of a fact, or the rule that refuses it."""
    if isinstance(questions, str):
        return questions
    answer = fact.object
    if others:
        known = true_objects[folded(fact.subject), fact.relation]
        drawn = (chance.choice(others[fact.relation]) for _ in range(TRIES))
        answer = next((one for one in drawn if folded(one) not in known), "")
        if not answer:
            return "no other object of the relation"
    reason = refused_questions(fact, questions, answer)
    if reason is not None:
        return reason
    for _ in range(TRIES if local else 0):
        question, local_answer = chance.choice(local)
        if refused_locality(fact, answer, question, local_answer) is None:
            return Record(
                "", questions.prompt, questions.rephrase, answer, question, local_answer,
                fact.subject, fact.relation,
            )  # fmt: skip
    return "no locality question"


def _objects(facts: Sequence[Fact]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for fact in facts:
        found.setdefault(fact.relation, {})[fact.object] = None
    return {relation: list(objects) for relation, objects in found.items()}
