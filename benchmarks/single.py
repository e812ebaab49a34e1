"""Single edits, each from the unedited model: what a method does before edits meet each other.

    python benchmarks/single.py demo src/ultraedit/demo/cases.jsonl -n 24 --methods rome,memit,wise

Methods take options as in quality.py: `rome:fact_token=last`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from quality import options_of
from rich.console import Console
from rich.table import Table
from shapes import machine

from ultraedit import Case, Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases


def run(model: str, cases: list[Case], method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Means over the cases, each edited into the unedited model and asked at once."""
    editor = Editor.from_pretrained(model, method=method, history="none", **options)
    workbench = editor.workbench
    began = {name: master.copy() for name, master in workbench.masters.items()}
    state = editor.method.state_dict()
    seconds, means = [], []
    for case in cases:
        start = time.perf_counter()
        editor.edit([case.edit])
        seconds.append(time.perf_counter() - start)
        means.append(editor.evaluate([case], baseline=False).after)
        workbench.restore(began)
        editor.method.load_state_dict(state)

    def mean(kind: str, metric: str) -> float:
        return statistics.fmean(one[kind][metric] for one in means)

    return {
        "method": method, "options": options, "modules": editor.modules, "edits": len(cases),
        "efficacy": {m: mean("efficacy", m) for m in ("token_accuracy", "exact_match")},
        "rephrase": {m: mean("rephrase", m) for m in ("token_accuracy", "exact_match")},
        "locality": {m: mean("locality", m) for m in ("agreement", "agreement_exact")},
        # Side memories alone say how often they answered.
        "routed": {
            kind: mean(kind, "routed")
            for kind in ("efficacy", "rephrase", "locality")
            if "routed" in means[0][kind]
        },
        "median seconds": statistics.median(seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("-n", type=int, default=24, help="edits")
    parser.add_argument("--methods", default="ultraedit,rome,memit,wise,ft")
    parser.add_argument("-o", "--out", type=Path, default=Path("single.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    cases = list(read_cases(arguments.file, limit=arguments.n))
    rows = []
    table = Table("method", "efficacy", "rephrase", "locality", "routed", "seconds")
    for method, options in map(options_of, arguments.methods.split(",")):
        if isinstance(options.get("modules"), str):
            options["modules"] = options["modules"].replace("+", ",")
        rows.append(row := run(arguments.model, cases, method, options))
        scores = (
            " / ".join(f"{value:.3f}" for value in row[kind].values())
            for kind in ("efficacy", "rephrase", "locality")
        )
        routed = " / ".join(f"{share:.2f}" for share in row["routed"].values())
        table.add_row(f"{method} {options}", *scores, routed, f"{row['median seconds']:.2f}")
        result = {"machine": machine(torch.device("cpu")), "rows": rows}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        Console().print(table)


if __name__ == "__main__":
    main()
