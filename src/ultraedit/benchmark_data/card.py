"""The card of a data set, in the form that the hub reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from ultraedit.benchmark_data.facts import Record
from ultraedit.benchmark_data.make import HELD_OUT, Tally, Targets
from ultraedit.benchmark_data.templates import known_relations

MOST_RELATIONS = 60
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(
    tally: Tally,
    files: Sequence[str],
    *,
    duplicates: int,
    examples: Sequence[Record],
    targets: Targets,
    seed: int,
    writer: str,
    about: str,
    mark: str,
) -> str:
    """The text of a `README.md`.

    Args:
        tally: What became of the facts.
        files: With records, relative to the card.
        duplicates: Records whose prompt an earlier one has.
        examples: Some records.
        targets: Which answers are written.
        seed: Of the choices.
        writer: Of the questions.
        about: The command; may be empty.
        mark: Says who wrote the card.
    """
    size = next((name for most, name in SIZES if tally.records < most), "n>1M")
    paths = "\n".join(f"    - {json.dumps(path, ensure_ascii=False)}" for path in files)
    known = known_relations()
    shown = tally.relations.most_common(MOST_RELATIONS)
    rest = len(tally.relations) - len(shown)
    relations = "\n".join(
        f"| {_cell(relation)} | {_cell(known[relation][0] if relation in known else '')} | {n:,} |"
        for relation, n in shown
    )
    if rest > 0:
        others = sum(tally.relations.values()) - sum(n for _, n in shown)
        relations += f"\n| {rest} more | | {others:,} |"
    refused = "\n".join(f"| {name} | {n:,} |" for name, n in tally.refused.most_common() if n)
    lengths = "\n".join(
        f"| `{name}` | {_quantile(found, 0):,} | {_quantile(found, 0.5):,} |"
        f" {_quantile(found, 0.95):,} | {_quantile(found, 1):,} |"
        for name, found in tally.lengths.items()
    )
    shown_examples = "\n".join(
        json.dumps(one.to_json(), ensure_ascii=False, indent=1) for one in examples
    )
    answers = (
        "the object of the fact in the knowledge base"
        if targets == "true"
        else "another object of the same relation, which is false"
    )
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path:
{paths}
size_categories:
- {size}
task_categories:
- question-answering
tags:
- knowledge-editing
---

{mark}

# {tally.records:,} edits

Records for knowledge editing, in the fields of UltraEditBench (arXiv:2505.14679).
`ans` is {answers}.
`loc` asks about another subject; its answer has to stay as it was.

| | |
|---|---|
| records | {tally.records:,} |
| facts read | {tally.facts:,} |
| relations | {len(tally.relations):,} |
| questions written by | {_cell(writer)} |
| records whose prompt an earlier one has | {duplicates:,} |
| seed | {seed} |
{f"| command | `{_cell(about)}` |" if about else ""}

One of every {HELD_OUT} subjects is held out: nothing about it is edited, and all `loc` questions
are about such subjects. So no edit changes what another record expects to stay.

## Lengths in characters

| field | shortest | median | 95% | longest |
|---|---|---|---|---|
{lengths}

## Relations

| relation | name | records |
|---|---|---|
{relations}

## Facts that became no record

| rule | facts |
|---|---|
{refused}

## Examples

```json
{shown_examples}
```
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _quantile(lengths: Counter[int], share: float) -> int:
    """The least length that so much of all does not exceed."""
    wanted, seen = share * sum(lengths.values()), 0
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= wanted:
            return length
    return 0
