"""Make the embedded facts and edit cases from a trained demo model.

    python training/demo/cases.py src/ultraedit/demo --cases 1000

Writes `facts.tsv` (what the model knows by exact greedy answer), `cases.jsonl` (ready-made
edits of such facts) and `measured.json` (how much it knows, per kind of phrasing) into the
folder, beside the model.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus import HERE, Fact, Phrasings, read_facts, read_phrasings
from train import exact_rows


def split(facts: list[Fact], rng: random.Random) -> tuple[list[Fact], list[Fact]]:
    """Facts to edit, and facts that locality probes ask about: no subject is in both.

    Otherwise one case's edit could change the answer another case expects unchanged.
    """
    subjects = sorted({fact.subject for fact in facts})
    rng.shuffle(subjects)
    edited = set(subjects[: len(subjects) * 2 // 3])
    return (
        [fact for fact in facts if fact.subject in edited],
        [fact for fact in facts if fact.subject not in edited],
    )


def make_cases(
    facts: list[Fact], phrasings: dict[str, Phrasings], count: int, seed: int
) -> list[dict[str, object]]:
    """Native records: a counterfactual answer of the same relation, two rephrases (one trained
    phrasing, the kept-out one), and two locality probes (same relation, another relation).
    """
    rng = random.Random(seed)
    editable, others = split(facts, rng)
    objects: dict[str, set[str]] = defaultdict(set)
    nearby: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        objects[fact.relation].add(fact.answer)
    for fact in others:
        nearby[fact.relation].append(fact)
    usable = [f for f in editable if len(objects[f.relation]) > 1 and nearby[f.relation]]
    records: list[dict[str, object]] = []
    for number, fact in enumerate(rng.sample(usable, count), 1):
        phrasing = phrasings[fact.relation]
        question = rng.choice(phrasing.questions)
        other = rng.choice([p for p in phrasing.trained if p != question])
        near = rng.choice(nearby[fact.relation])
        far = rng.choice([f for f in others if f.relation != fact.relation])
        target = rng.choice(sorted(objects[fact.relation] - {fact.answer}))
        probes = [
            {"kind": "rephrase", "prompt": p.format(fact.subject), "target": target}
            for p in (other, phrasing.held_out)
        ]
        probes += [
            {
                "kind": "locality",
                "prompt": rng.choice(phrasings[f.relation].questions).format(f.subject),
                "target": f.answer,
            }
            for f in (near, far)
        ]
        records.append(
            {
                "id": f"demo-{number}",
                "prompt": question.format(fact.subject),
                "target": target,
                "subject": fact.subject,
                "probes": probes,
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds model/, gets the files")
    parser.add_argument("--data", type=Path, default=HERE, help="holds facts and phrasings")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--facts", type=int, help="what the model was trained on, if not all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asked", type=int, help="in so many trained phrasings, if not in all")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.folder / "model")
    model = AutoModelForCausalLM.from_pretrained(args.folder / "model", dtype=torch.float32)
    facts, phrasings = read_facts(args.data), read_phrasings(args.data)
    # The same draw as in training.
    facts = random.Random(args.seed).sample(facts, args.facts) if args.facts else facts
    known_in: dict[int, list[bool]] = defaultdict(list)
    most = max(len(phrasings[fact.relation].trained) for fact in facts)
    for number in random.Random(args.seed).sample(range(most), min(args.asked or most, most)):
        places = [i for i, f in enumerate(facts) if number < len(phrasings[f.relation].trained)]
        pairs = [
            (phrasings[facts[i].relation].trained[number].format(facts[i].subject), facts[i].answer)
            for i in places
        ]
        for i, known in zip(places, exact_rows(model, tokenizer, pairs), strict=True):
            known_in[i].append(known)
    asked = [known for row in known_in.values() for known in row]
    held_out = exact_rows(
        model,
        tokenizer,
        [(phrasings[f.relation].held_out.format(f.subject), f.answer) for f in facts],
    )
    rates = {
        "facts": len(facts),
        "known_trained_phrasings": sum(asked) / len(asked),
        "known_in_every_trained_phrasing": sum(map(all, known_in.values())) / len(facts),
        "known_held_out_phrasing": sum(held_out) / len(facts),
    }
    known = [fact for i, fact in enumerate(facts) if all(known_in[i])]
    rates["facts_embedded"] = len(known)
    with (args.folder / "facts.tsv").open("w", encoding="utf-8") as file:
        file.write("relation\tsubject\tanswer\n")
        file.writelines(f"{f.relation}\t{f.subject}\t{f.answer}\n" for f in known)
    with (args.folder / "cases.jsonl").open("w", encoding="utf-8") as file:
        for record in make_cases(known, phrasings, args.cases, args.seed):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    (args.folder / "measured.json").write_text(json.dumps(rates, indent=2) + "\n")
    print(json.dumps(rates, indent=2))


if __name__ == "__main__":
    main()
