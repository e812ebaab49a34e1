"""How near `lr="auto"` comes to the best of a sweep.

    python benchmarks/auto_lr.py MODEL CASES -o auto_lr.json

Runs the same turns with every eta of a geometric sweep around the automatic one and with
`auto`, each from the unedited model, and scores all cases after all edits. Quality is the
mean of efficacy, rephrase and locality (token accuracy, locality as agreement with the
unedited model's own answer).
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


def measure(
    model: str, cases: list[Case], turn: int, lr: float | str, modules: str
) -> dict[str, Any]:
    editor = Editor.from_pretrained(model, method="ultraedit", lr=lr, modules=modules, device="cpu")
    seconds = []
    for start in range(0, len(cases), turn):
        done = editor.edit([case.edit for case in cases[start : start + turn]])
        seconds.append(done.seconds)
    report = editor.evaluate(cases, baseline=False, keep_cases=False)
    after = report.after
    return {
        "lr": editor.method.lr,
        "auto": lr == "auto",
        "efficacy": after["efficacy"]["token_accuracy"],
        "rephrase": after["rephrase"]["token_accuracy"],
        "locality": after["locality"]["agreement"],
        "mean": report.mean(),
        "seconds_per_turn": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("cases")
    parser.add_argument("-n", type=int, default=400, help="edits")
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("--modules", default="auto", help="names separated by commas")
    parser.add_argument("--span", type=int, default=4, help="steps to either side")
    parser.add_argument("--ratio", type=float, default=2**0.5, help="between neighbours")
    parser.add_argument("-o", "--out", type=Path, default=Path("auto_lr.json"))
    args = parser.parse_args()
    quiet_libraries()
    cases = list(read_cases(args.cases, limit=args.n))
    auto = measure(args.model, cases, args.turn_size, "auto", args.modules)
    rows = [
        measure(args.model, cases, args.turn_size, auto["lr"] * args.ratio**step, args.modules)
        for step in range(-args.span, args.span + 1)
        if step
    ]
    rows = sorted([*rows, auto], key=lambda row: row["lr"])
    best = max(row["mean"] for row in rows)
    table = Table("eta", "efficacy", "rephrase", "locality", "mean", "")
    for row in rows:
        values = (row[k] for k in ("efficacy", "rephrase", "locality", "mean"))
        mark = ("auto " if row["auto"] else "") + ("best" if row["mean"] == best else "")
        table.add_row(f"{row['lr']:.3g}", *(f"{value:.3f}" for value in values), mark)
    Console().print(table, f"auto is {best - auto['mean']:.4f} below the best of the sweep")
    args.out.write_text(
        json.dumps(
            {
                "model": args.model,
                "edits": len(cases),
                "turn_size": args.turn_size,
                "modules": args.modules,
                "behind_best": best - auto["mean"],
                "rows": rows,
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
