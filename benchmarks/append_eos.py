"""Whether writing end-of-sequence after a target makes free answers right.

    python benchmarks/append_eos.py MODEL CASES -o append_eos.json

The same turns with and without it, at `lr="auto"`, scored by free greedy generation
(normalised exact match) and, without that token, by the published metric.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ultraedit import Case, Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases

KINDS = ("efficacy", "rephrase", "locality")
METRICS = ("token_accuracy", "exact_match", "generation")


def measure(model: str, cases: list[Case], turn: int, append_eos: bool) -> dict[str, Any]:
    editor = Editor.from_pretrained(model, method="ultraedit", append_eos=append_eos, device="cpu")
    for start in range(0, len(cases), turn):
        editor.edit([case.edit for case in cases[start : start + turn]])
    report = editor.evaluate(cases, baseline=False, generate=True, keep_cases=False)
    return {"append_eos": append_eos, "lr": editor.method.lr, **report.after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("cases")
    parser.add_argument("-n", type=int, default=400, help="edits")
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, default=Path("append_eos.json"))
    args = parser.parse_args()
    quiet_libraries()
    cases = list(read_cases(args.cases, limit=args.n))
    rows = [measure(args.model, cases, args.turn_size, choice) for choice in (False, True)]
    table = Table("append_eos", "metric", *KINDS)
    for row in rows:
        for metric in METRICS:
            table.add_row(
                str(row["append_eos"]), metric, *(f"{row[kind][metric]:.3f}" for kind in KINDS)
            )
    Console().print(table)
    args.out.write_text(
        json.dumps({"model": args.model, "edits": len(cases), "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
