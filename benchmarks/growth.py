"""Two million edits through the demo-sized model: does a turn grow slower, or memory larger?

    python benchmarks/growth.py --facts kamel.tsv.gz --relations kamel_relations.tsv -o growth.json

Facts are triples (relation, subject, object) with a question for every relation. When all are
written the file begins anew, every subject with the object of another subject of its relation.
Every two hundredth turn is measured beside a plain forward pass of the whole model over the same
texts, so that both see the same machine. Seconds are given as wall clock and as the process's
own time; the second does not count what else the machine was doing.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import time
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from shapes import machine

from ultraedit import Edit, Editor
from ultraedit.encoding.tokenise import Encoder
from ultraedit.forward.passes import Passes

MEASURE_EVERY = 200
LOOKAHEAD_TURNS = 10


def fits(text: str, most: int) -> bool:
    """Whether a text is there and short: the model reads 256 tokens, no token is under a byte."""
    return bool(text.strip()) and len(text.encode()) <= most


def table(file: Any) -> Any:
    return csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def edits(facts: Path, relations: Path, encoder: Encoder, most_tokens: int) -> Iterator[Edit]:
    """All of them round after round; lengths are counted once, prompts and targets apart."""
    with relations.open(newline="") as file:
        questions = {row["relation"]: row["question"] for row in table(file)}
    with gzip.open(facts, "rt", newline="") as file:
        rows = [
            (one["relation"], one["subject"], one["object"])
            for one in table(file)
            if one["relation"] in questions
            and fits(one["subject"], 100)
            and fits(one["object"], 60)
        ]
    rows = [
        (relation, questions[relation].replace("[S]", subject), target)
        for relation, subject, target in rows
    ]
    of_relation: dict[str, list[str]] = {}
    for relation, _, target in rows:
        of_relation.setdefault(relation, []).append(target)
    prompts = token_counts(encoder, [prompt for _, prompt, _ in rows], special=True)
    distinct = sorted({target for _, _, target in rows})
    counts = token_counts(encoder, [f" {target}" for target in distinct], special=False)
    sizes = {t: count + encoder.append_eos for t, count in zip(distinct, counts, strict=True)}
    round_ = 0
    while True:
        places = dict.fromkeys(of_relation, 0)
        found = 0
        for (relation, prompt, _), length in zip(rows, prompts, strict=True):
            targets, place = of_relation[relation], places[relation]
            places[relation] += 1
            # Another object of the same relation in every round; the first is the true one.
            target = targets[(place + 97 * round_) % len(targets)]
            if length + sizes[target] <= most_tokens:
                found += 1
                yield Edit(prompt, target)
        if not found:
            raise SystemExit(f"no edit has at most {most_tokens} tokens")
        round_ += 1


def token_counts(encoder: Encoder, texts: list[str], special: bool) -> array[int]:
    """Of every text; in chunks, since what the tokenizer once held stays with the process."""
    counts = array("H")
    for first in range(0, len(texts), 500):
        part = texts[first : first + 500]
        found = encoder.tokenizer(part, add_special_tokens=special)["input_ids"]
        counts.extend(len(ids) for ids in found)
    return counts


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    wall, own = clocks()
    return wall - began[0], own - began[1]


def run(
    editor: Editor, source: Iterator[Edit], total: int, turn_size: int
) -> Iterator[dict[str, Any]]:
    """What was measured so far, every now and then: a run cut short has its results."""
    workbench = editor.workbench
    turns: list[tuple[float, float]] = []
    memory: list[int] = []
    forwards: list[dict[str, float]] = []
    count = 0
    while count < total:
        window = list(islice(source, min(turn_size * LOOKAHEAD_TURNS, total - count)))
        began = clocks()
        editor.look_ahead(window)
        ahead = since(began)
        parts = [window[start : start + turn_size] for start in range(0, len(window), turn_size)]
        for part in parts:
            began = clocks()
            editor.edit(part)
            wall, own = since(began)
            # The window's reading is spread over its turns.
            turns.append((wall + ahead[0] / len(parts), own + ahead[1] / len(parts)))
            count += len(part)
        memory.append(resident_bytes())
        if len(turns) % MEASURE_EVERY == 0 or count >= total:
            texts = [workbench.encoder.encode(e.prompt, e.answers[0]) for e in parts[-1]]
            passes, workbench.passes = workbench.passes, Passes(workbench.model, split=False)
            walls, owns = zip(*(forward(workbench, texts) for _ in range(3)), strict=True)
            workbench.passes = passes
            recent = turns[-LOOKAHEAD_TURNS:]
            forwards.append({
                "turn": len(turns),
                "tokens": sum(len(text.ids) - 1 for text in texts),
                "forward seconds": statistics.median(walls),
                "forward own seconds": statistics.median(owns),
                "turn seconds": statistics.median(wall for wall, _ in recent),
                "turn own seconds": statistics.median(own for _, own in recent),
            })  # fmt: skip
            last = forwards[-1]
            print(
                f"{count} edits, {memory[-1] / 2**20:.1f} MiB, turn {last['turn seconds']:.3f} s,"
                f" forward {last['forward seconds']:.3f} s",
                flush=True,
            )
            yield {"turns": turns, "memory": memory, "forwards": forwards}


def forward(workbench: Any, texts: Any) -> tuple[float, float]:
    began = clocks()
    workbench.score(texts)
    return since(began)


def summary(measured: dict[str, Any], turn_size: int) -> dict[str, Any]:
    turns, memory, forwards = (measured[what] for what in ("turns", "memory", "forwards"))
    ratios = [f["forward own seconds"] / f["turn own seconds"] for f in forwards]
    tenths = []
    for number in range(10):
        part, held, beside = (tenth(values, number) for values in (turns, memory, ratios))
        tenths.append({
            "median turn seconds": statistics.median(wall for wall, _ in part),
            "median turn own seconds": statistics.median(own for _, own in part),
            "resident MiB": statistics.median(held) / 2**20,
            "throughput / plain forward passes": statistics.median(beside) if beside else None,
        })  # fmt: skip
    first, last = tenths[0], tenths[-1]
    resident = [one["resident MiB"] for one in tenths]
    return {
        "edits": len(turns) * turn_size,
        "tenths": tenths,
        "last tenth / first": {
            what: last[what] / first[what] for what in first if first[what] and last[what]
        },
        "resident of a tenth, most / least": max(resident) / min(resident),
        "throughput / plain forward passes": statistics.median(ratios),
        "edits per second": turn_size / statistics.median(wall for wall, _ in turns),
        "forwards": forwards,
    }


def tenth(values: list[Any], number: int) -> list[Any]:
    return values[len(values) * number // 10 : len(values) * (number + 1) // 10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=Path, required=True, help="relation, subject, object")
    parser.add_argument("--relations", type=Path, required=True, help="relation, question")
    parser.add_argument("--edits", type=int, default=2_000_000)
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("--most-tokens", type=int, default=256, help="leave longer edits out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--check-learned", action="store_true", help="ask every turn's edits again")
    parser.add_argument("-o", "--out", type=Path, default=Path("growth.json"))
    arguments = parser.parse_args()
    editor = Editor.from_pretrained(
        "demo", method="ultraedit", dtype=arguments.dtype, history="none",
        check_learned=arguments.check_learned,
    )  # fmt: skip
    encoder = editor.workbench.encoder
    source = edits(arguments.facts, arguments.relations, encoder, arguments.most_tokens)
    for measured in run(editor, source, arguments.edits, arguments.turn_size):
        result = {
            "machine": machine(torch.device("cpu")),
            "dtype": arguments.dtype,
            "blocks": editor.model.config.num_hidden_layers,
            "modules": editor.modules,
            "turn size": arguments.turn_size,
            "most tokens": arguments.most_tokens,
            "lookahead turns": LOOKAHEAD_TURNS,
            "checked": arguments.check_learned,
            "finite": editor.workbench.is_finite(),
            **summary(measured, arguments.turn_size),
        }
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "forwards"}, indent=2))


if __name__ == "__main__":
    main()
