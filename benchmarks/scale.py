"""A long stream of edits: what holds of everything edited so far, and what it costs.

    python benchmarks/scale.py FILE --model demo --method ultraedit --edits 2000000 -o scale.json

FILE is what `bench-build` wrote. After 1,000, 2,000, 5,000, 10,000, ... edits the model is saved,
and a reservoir sample of everything edited so far is asked: efficacy, rephrases, and locality as
agreement with the unedited model. The same command goes on after an interrupt. `--picture` draws
all scores against the number of edits.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from ultraedit import Editor
from ultraedit.cli.console import progress_lines, quiet_libraries
from ultraedit.data import read_cases
from ultraedit.records import Case
from ultraedit.storage import is_edited_model

STEPS = (1, 2, 5)
LOOKAHEAD_TURNS = 10


class Reservoir:
    """A uniform sample of everything that was added (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.chance = size, random.Random(seed)
        self.cases: list[Case] = []
        self.seen = 0

    def add(self, case: Case) -> None:
        self.seen += 1
        if len(self.cases) < self.size:
            self.cases.append(case)
        elif (place := self.chance.randrange(self.seen)) < self.size:
            self.cases[place] = case


def checkpoints(turn_size: int, most: int) -> set[int]:
    """Numbers of edits after which to measure."""
    found = {most}
    scale = max(turn_size, 100)
    while scale <= most:
        found |= {scale * step for step in STEPS if scale * step <= most}
        scale *= 10
    # The last turn may be a shorter one.
    return {min(-(-count // turn_size) * turn_size, most) for count in found}


def measured(editor: Editor, sample: Reservoir, out: Path, seconds: float) -> dict[str, Any]:
    began = time.perf_counter()
    editor.save(out)
    saved = time.perf_counter() - began
    report = editor.evaluate(sample.cases, baseline=False, keep_cases=False)
    intervals = report.intervals()

    def score(kind: str, metric: str) -> dict[str, Any]:
        return {"value": report.after[kind][metric], "interval": intervals[kind][metric]}

    return {
        "edits": sample.seen,
        "efficacy": score("efficacy", "token_accuracy"),
        "rephrase": score("rephrase", "token_accuracy"),
        "locality": score("locality", "agreement"),
        "sample": len(sample.cases),
        "seconds editing": seconds,
        "seconds of the save": saved,
        "resident bytes": psutil.Process().memory_info().rss,
        "bytes on disk": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
    }


def turns(cases: Iterator[Case], size: int) -> Iterator[list[Case]]:
    while turn := list(islice(cases, size)):
        yield turn


def run(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    if is_edited_model(arguments.folder):
        editor = Editor.load(arguments.folder)
        rows = json.loads(arguments.out.read_text())["rows"]
    else:
        settings = dict(one.split("=") for one in arguments.set)
        editor = Editor.from_pretrained(
            arguments.model, method=arguments.method, history="none", chat="off",
            modules=arguments.modules, check_learned=False,
            **{name: json.loads(value) for name, value in settings.items()},
        )  # fmt: skip
    sample = Reservoir(arguments.sample, seed=0)
    cases = read_cases(str(arguments.file), limit=arguments.edits)
    for case in islice(cases, editor.edits):
        sample.add(case)
    wanted = checkpoints(arguments.turn_size, arguments.edits)
    seconds = rows[-1]["seconds editing"] if rows else 0.0
    with progress_lines("editing", arguments.edits) as advance:
        advance(editor.edits)
        for window in turns(cases, arguments.turn_size * LOOKAHEAD_TURNS):
            if arguments.method == "ultraedit":
                began = time.perf_counter()
                editor.look_ahead([case.edit for case in window])
                seconds += time.perf_counter() - began
            for turn in turns(iter(window), arguments.turn_size):
                began = time.perf_counter()
                editor.edit([case.edit for case in turn])
                seconds += time.perf_counter() - began
                for case in turn:
                    sample.add(case)
                advance(len(turn))
                if editor.edits in wanted:
                    rows.append(measured(editor, sample, arguments.folder, seconds))
                    print(json.dumps(rows[-1]), flush=True)
                    result = {"arguments": {k: str(v) for k, v in vars(arguments).items()}}
                    arguments.out.write_text(json.dumps(result | {"rows": rows}, indent=2) + "\n")
                    if arguments.picture:
                        draw(rows, arguments.picture)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    edits = [row["edits"] for row in rows]
    for kind, style in (("efficacy", "o-"), ("rephrase", "s-"), ("locality", "^-")):
        axes.plot(edits, [row[kind]["value"] for row in rows], style, label=kind)
        low, high = zip(*(row[kind]["interval"] for row in rows), strict=True)
        axes.fill_between(edits, low, high, alpha=0.2)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("edits")
    axes.set_ylabel("of everything edited so far")
    axes.grid(color="#dddddd")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--method", default="ultraedit")
    parser.add_argument("--modules", default="auto", help="names, separated by commas")
    parser.add_argument("--set", action="append", default=[], help="a setting, as NAME=JSON")
    parser.add_argument("--edits", type=int, default=2_000_000)
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("--sample", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("scale-model"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("scale.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    run(arguments)


if __name__ == "__main__":
    main()
