"""Facts of a small knowledge base."""

import random

import pytest

from ultraedit.benchmark_data.facts import Fact

RELATIONS = ("P19", "P106", "P27", "P50")


@pytest.fixture
def facts_of():
    """`facts_of(count)`: facts about as many subjects, whose objects come several times."""

    def make(count, seed=0):
        chance = random.Random(seed)
        return [
            Fact(f"Subject{number}", chance.choice(RELATIONS), f"Object{chance.randrange(40)}")
            for number in range(count)
        ]

    return make


@pytest.fixture
def table_of(tmp_path):
    """`table_of(facts, name)`: a file with them."""

    def write(facts, name="facts.tsv"):
        path = tmp_path / name
        lines = [f"{one.relation}\t{one.subject}\t{one.object}\n" for one in facts]
        path.write_text("relation\tsubject\tobject\n" + "".join(lines))
        return path

    return write
