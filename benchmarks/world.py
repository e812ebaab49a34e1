"""A made-up world: people, each with a birthplace, an employer and so on, and ways to ask.

    python benchmarks/world.py WORLD --facts 4000
    python training/demo/train.py --data WORLD --work runs/world --compile
    python training/demo/train.py --data WORLD --work runs/world --export WORLD/model
    python training/demo/cases.py WORLD --data WORLD --cases 2000

Writes `facts.tsv.gz` and `phrasings.toml` in the format of `training/demo`. No model can have seen
these facts before, every person has every attribute, and many people share an answer, so that only
the name distinguishes one person from another.
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
PHRASINGS: dict[str, dict[str, list[str]]] = {
    "birthplace": {
        "statements": ["{} was born in", "the birthplace of {} is", "{} comes from the town of"],
        "questions": [
            "where was {} born?",
            "in which town was {} born?",
            "what is the birthplace of {}?",
            "which town does {} come from?",
        ],
    },
    "employer": {
        "statements": ["{} works for", "the employer of {} is", "{} has a job at"],
        "questions": [
            "who does {} work for?",
            "which company employs {}?",
            "what is the employer of {}?",
            "at which company does {} have a job?",
        ],
    },
    "profession": {
        "statements": ["{} earns a living as a", "the profession of {} is", "{} works as a"],
        "questions": [
            "what is the profession of {}?",
            "what does {} do for a living?",
            "what does {} work as?",
            "which profession does {} have?",
        ],
    },
    "spouse": {
        "statements": ["{} is married to", "the spouse of {} is", "{} shares a home with"],
        "questions": [
            "who is {} married to?",
            "who is the spouse of {}?",
            "who does {} share a home with?",
            "what is the name of the spouse of {}?",
        ],
    },
    "hobby": {
        "statements": ["{} spends weekends on", "the hobby of {} is", "what {} likes most is"],
        "questions": [
            "what is the hobby of {}?",
            "what does {} like most?",
            "what does {} spend weekends on?",
            "which hobby does {} have?",
        ],
    },
}
# Every question is asked behind each of these, and so is every statement, but for one pair of
# each attribute, which no training ever shows.
BEFORE_STATEMENTS = ("", "As far as I know, ", "The register says: ", "It is true that ")
BEFORE_QUESTIONS = ("", "Please answer: ", "I forgot, ", "One more thing, ", "Tell me, ")


def first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def phrasings(attribute: str) -> dict[str, list[str] | str]:
    """All ways of asking, and the one that is kept out of training."""
    asked = PHRASINGS[attribute]
    statements = [first_upper(b + s) for s in asked["statements"] for b in BEFORE_STATEMENTS]
    questions = [first_upper(b + q) for q in asked["questions"] for b in BEFORE_QUESTIONS]
    held_out = questions.pop(len(BEFORE_QUESTIONS) * 2 - 1)
    return {"statements": statements, "questions": questions, "held_out": held_out}


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
        for attribute in PHRASINGS:
            file.write(f"[{attribute}]\n")
            for kind, ways in phrasings(attribute).items():
                file.write(f"{kind} = {json.dumps(ways)}\n")
    print(f"{len(rows) - 1} facts about {-(-arguments.facts // len(PHRASINGS))} people")


if __name__ == "__main__":
    main()
