"""Methods side by side on facts that a model knows by heart: learned, held elsewhere, kept.

    python benchmarks/quality.py demo -n 400,1000 --methods anchored,ultraedit -o quality.json
    python benchmarks/quality.py WORLD -n 100,400,1000,2000,half --seeds 1,2,3

FOLDER is what `training/demo/cases.py` wrote: a model, the facts it knows, and beside them the
phrasings (those of `training/demo` where there are none). Every fact that is edited gets another
answer of its relation; what is asked about others, of the same relation and of another, is about
subjects that no edit names. All is asked after all edits. A row is written as soon as it is
there, and rows that the file has already are not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import machine

from ultraedit import Case, Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data.cases import to_case
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.passes import Passes
from ultraedit.workbench import ModelWorkbench

TRAINING = Path(__file__).parent.parent / "training" / "demo"
DEMO = Path(__file__).parent.parent / "src" / "ultraedit" / "demo"
UNEDITED = 500
# The unedited model's own text, and not the text that a method may have drawn for itself.
TEXTS, TOKENS, OTHER_SEED = 512, 32, 2**20


class World:
    """The facts a model knows, and cases drawn from them."""

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(TRAINING))
        import cases
        import corpus

        self.folder = folder
        self.make = cases.make_cases
        here = (folder / "phrasings.toml").exists()
        self.phrasings = corpus.read_phrasings(folder if here else TRAINING)
        with (folder / "facts.tsv").open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            self.facts = [corpus.Fact(r["relation"], r["subject"], r["answer"]) for r in rows]

    def cases(self, count: int, seed: int) -> list[Case]:
        records = self.make(self.facts, self.phrasings, count, seed)
        return [to_case(record, number) for number, record in enumerate(records, 1)]

    def others(self, cases: list[Case], seed: int) -> list[Any]:
        """Facts about subjects that no case edits."""
        edited = {case.edit.subject for case in cases}
        left = [fact for fact in self.facts if fact.subject not in edited]
        return random.Random(seed).sample(left, min(UNEDITED, len(left)))


def run(
    world: World, count: int, seed: int, turn_size: int, method: str, options: dict[str, Any]
) -> dict[str, Any]:
    """One method from the unedited model through all edits, and everything asked."""
    cases = world.cases(count, seed)
    editor = Editor.from_pretrained(
        world.folder / "model", method=method, dtype="float32", history="none",
        check_learned=False, **options,
    )  # fmt: skip
    workbench = editor.workbench
    drawn = workbench.sample(TEXTS, TOKENS, OTHER_SEED)
    before = perplexity(workbench, drawn)
    texts = [workbench.encoder.encode(case.edit.prompt, case.edit.answers[0]) for case in cases]
    turns, retained, taken = [], [], 0.0
    for start in range(0, count, turn_size):
        began = time.perf_counter()
        turns.append(editor.edit([case.edit for case in cases[start : start + turn_size]]))
        taken += time.perf_counter() - began
        retained.append(statistics.fmean(s.exact for s in workbench.score(texts[:turn_size])))
    report = editor.evaluate(cases, baseline=False, generate=True, keep_cases=False)

    def asked(probes: list[tuple[str, str]]) -> dict[str, float]:
        scored = workbench.score([workbench.encoder.encode(*probe) for probe in probes])
        return {
            "token": statistics.fmean(one.token_accuracy for one in scored),
            "exact": statistics.fmean(one.exact for one in scored),
        }

    kept = [[p for p in case.probes if p.kind == "locality"] for case in cases]
    others = [
        (world.phrasings[fact.relation].questions[0].format(fact.subject), fact.answer)
        for fact in world.others(cases, seed)
    ]
    workbench.passes = Passes(workbench.model, split=False)
    forwards = []
    for _ in range(3):
        start = time.perf_counter()
        workbench.score(texts)
        forwards.append(time.perf_counter() - start)
    return {
        "facts": len(world.facts), "edits": count, "turn size": turn_size, "seed": seed,
        "method": method, "options": options, "modules": editor.modules,
        **{kind: report.after.get(kind, {}) for kind in ("efficacy", "rephrase", "locality")},
        "near": asked([(probes[0].prompt, probes[0].answers[0]) for probes in kept]),
        "far": asked([(probes[1].prompt, probes[1].answers[0]) for probes in kept]),
        "unedited": asked(others),
        "perplexity": {"before": before, "after": perplexity(workbench, drawn)},
        "mean": report.mean(), "mean exact": report.mean("exact_match"),
        "mean free": report.mean("generation"),
        "passes": statistics.fmean(turn.passes for turn in turns),
        "first turn kept": retained, "seconds": taken, "first turn seconds": turns[0].seconds,
        "turn / plain forward pass": statistics.median(turn.seconds for turn in turns)
        / (statistics.median(forwards) * turn_size / count),
    }  # fmt: skip


def perplexity(workbench: ModelWorkbench, texts: list[Encoded]) -> float:
    """exp of the mean loss of a token."""
    losses = torch.cat([scored.losses for scored in workbench.score(texts)])
    return float(losses.double().mean().exp())


def key(row: dict[str, Any]) -> str:
    named = ("facts", "edits", "turn size", "seed", "method", "options")
    return json.dumps([row[name] for name in named], sort_keys=True)


def shown(rows: list[dict[str, Any]]) -> Table:
    table = Table("edits", "turn", "seed", "method", "efficacy", "rephrase", "locality", "near",
                  "far", "others", "perplexity", "mean", "passes", "turn / forward")  # fmt: skip
    for row in rows:
        options = " ".join(f"{k}={v}" for k, v in row["options"].items() if k != "modules")
        scores = (
            f"{part['token_accuracy']:.3f} / {part['exact_match']:.3f} / {part['generation']:.3f}"
            for part in (row["efficacy"], row["rephrase"])
        )
        table.add_row(
            str(row["edits"]), str(row["turn size"]), str(row["seed"]),
            f"{row['method']} {options}", *scores, f"{row['locality']['agreement']:.3f}",
            *(f"{row[part]['exact']:.3f}" for part in ("near", "far", "unedited")),
            f"{row['perplexity']['before']:.2f} > {row['perplexity']['after']:.2f}",
            f"{row['mean']:.3f}", f"{row['passes']:.1f}",
            f"{row['turn / plain forward pass']:.1f}",
        )  # fmt: skip
    return table


def options_of(text: str) -> tuple[str, dict[str, Any]]:
    """`anchored:lr=0.3:passes=8` as a method and its options."""
    method, *pairs = text.split(":")
    found: dict[str, Any] = {}
    for pair in pairs:
        name, value = pair.split("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return method, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="what cases.py wrote, or demo")
    parser.add_argument("-n", default="400", help="edits: numbers, or half of all facts")
    parser.add_argument("--turn-size", default="100", help="numbers")
    parser.add_argument("--seeds", default="0", help="of the cases")
    parser.add_argument(
        "--methods", default="anchored,ultraedit",
        help="names, each with options as in anchored:lr=0.3; modules=A+B for several",
    )  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, default=Path("quality.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    world = World(DEMO if arguments.folder == "demo" else Path(arguments.folder))
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows: list[dict[str, Any]] = result.get("rows", [])
    done = {key(row) for row in rows}
    for count in arguments.n.split(","):
        edits = len(world.facts) // 2 if count == "half" else int(count)
        for turn_size in map(int, arguments.turn_size.split(",")):
            for seed in map(int, arguments.seeds.split(",")):
                for method, options in map(options_of, arguments.methods.split(",")):
                    if isinstance(options.get("modules"), str):
                        options["modules"] = options["modules"].replace("+", ",")
                    wanted = {"facts": len(world.facts), "edits": edits, "turn size": turn_size,
                              "seed": seed, "method": method, "options": options}  # fmt: skip
                    if key(wanted) in done:
                        continue
                    rows.append(run(world, edits, seed, turn_size, method, options))
                    Console().print(shown(rows[-1:]))
                    result = {"machine": machine(torch.device("cpu")), "rows": rows}
                    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    Console().print(shown(rows))


if __name__ == "__main__":
    main()
