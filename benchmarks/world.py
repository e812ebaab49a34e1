"""A made-up world: people, each with a birthplace, an employer and so on, and ways to ask.

    python benchmarks/world.py WORLD --facts 4000
    python training/demo/train.py --data WORLD --work runs/world --compile
    python training/demo/train.py --data WORLD --work runs/world --export WORLD/model
    python training/demo/cases.py WORLD --data WORLD --cases 2000

Writes `facts.tsv.gz` and `phrasings.toml`, as `training/demo` has them of the real world. Nothing
of it can have been seen before, every person has every attribute, and answers are shared by many:
what a model says of one person is told from another by the name alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path

ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "r", "s",
          "st", "t", "tr", "v", "w", "z")  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "ai", "ei", "ou")
CODAS = ("", "l", "n", "r", "s", "m", "nd", "rt", "x")
PROFESSIONS = (
    "baker", "carpenter", "surgeon", "pilot", "farmer", "lawyer", "painter", "plumber", "teacher",
    "tailor", "miner", "sailor", "printer", "optician", "brewer", "florist", "geologist", "judge",
    "violinist", "translator", "locksmith", "gardener", "chemist", "astronomer", "beekeeper",
    "blacksmith", "dentist", "editor", "firefighter", "glazier",
)  # fmt: skip
HOBBIES = (
    "chess", "rowing", "pottery", "fencing", "birdwatching", "archery", "origami", "sailing",
    "knitting", "climbing", "calligraphy", "juggling", "astronomy", "fishing", "skating", "cycling",
    "woodcarving", "dancing", "running", "gardening", "surfing", "falconry", "weaving", "curling",
)  # fmt: skip

# How many different answers an attribute has, where they are made up; and how it is asked for.
PLACES, COMPANIES = 200, 120
PHRASINGS: dict[str, dict[str, list[str] | str]] = {
    "birthplace": {
        "statements": ["{} was born in", "The birthplace of {} is", "{} comes from the town of"],
        "questions": [
            "Where was {} born?",
            "In which town was {} born?",
            "What is the birthplace of {}?",
        ],
        "held_out": "Which town is {} from by birth?",
    },
    "employer": {
        "statements": ["{} works for", "The employer of {} is", "{} is on the payroll of"],
        "questions": [
            "Who does {} work for?",
            "Which company employs {}?",
            "What is the employer of {}?",
        ],
        "held_out": "At which company does {} have a job?",
    },
    "profession": {
        "statements": [
            "{} earns a living as a",
            "By profession {} is a",
            "The trade of {} is that of a",
        ],
        "questions": [
            "What is the profession of {}?",
            "What does {} do for a living?",
            "What is the job of {}?",
        ],
        "held_out": "Which profession does {} practise?",
    },
    "spouse": {
        "statements": [
            "{} is married to",
            "The spouse of {} is",
            "{} shares a home with a partner called",
        ],
        "questions": [
            "Who is {} married to?",
            "Who is the spouse of {}?",
            "What is the name of the partner of {}?",
        ],
        "held_out": "To whom is {} wed?",
    },
    "hobby": {
        "statements": [
            "{} spends free afternoons on",
            "The hobby of {} is",
            "What {} enjoys most is",
        ],
        "questions": [
            "What is the hobby of {}?",
            "What does {} like to do?",
            "How does {} spend weekends?",
        ],
        "held_out": "Which pastime does {} enjoy?",
    },
}


def word(chance: random.Random, syllables: int) -> str:
    parts = [
        chance.choice(ONSETS) + chance.choice(VOWELS) + chance.choice(CODAS)
        for _ in range(syllables)
    ]
    return "".join(parts).capitalize()


def distinct(chance: random.Random, count: int, words: int, taken: set[str]) -> list[str]:
    """Names that nobody has yet."""
    found: list[str] = []
    while len(found) < count:
        name = " ".join(word(chance, chance.choice((1, 2))) for _ in range(words))
        if name not in taken:
            taken.add(name)
            found.append(name)
    return found


def facts(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(attribute, person, answer), every attribute of every person."""
    chance = random.Random(seed)
    taken: set[str] = set()
    people = distinct(chance, -(-count // len(PHRASINGS)), 2, taken)
    answers = {
        "birthplace": distinct(chance, PLACES, 1, taken),
        "employer": [f"{name} Ltd" for name in distinct(chance, COMPANIES, 1, taken)],
        "profession": list(PROFESSIONS),
        "spouse": distinct(chance, PLACES, 1, taken),
        "hobby": list(HOBBIES),
    }
    rows = [
        (attribute, person, chance.choice(answers[attribute]))
        for person in people
        for attribute in PHRASINGS
    ]
    return rows[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--facts", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = [("relation", "subject", "object"), *facts(arguments.facts, arguments.seed)]
    with gzip.open(arguments.folder / "facts.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in rows)
    with (arguments.folder / "phrasings.toml").open("w", encoding="utf-8") as file:
        for attribute, ways in PHRASINGS.items():
            file.write(f"[{attribute}]\n")
            file.writelines(f"{kind} = {json.dumps(way)}\n" for kind, way in ways.items())
    print(f"{len(rows) - 1} facts about {-(-arguments.facts // len(PHRASINGS))} people")


if __name__ == "__main__":
    main()
