"""What saving after every turn costs, with and without a journal.

    python benchmarks/history_cost.py -o history_cost.json

First the embedded model, edited in turns of 100: seconds of a turn alone, and of its save.
Then one save and one undo at Mistral-7B's shapes (two down projections in bfloat16, 500
answer tokens a turn) with random numbers in place of a model: the time is all disk and addition.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ultraedit import Editor
from ultraedit.data import read_cases
from ultraedit.demo import CASES_FILE
from ultraedit.linalg.apply import shifted
from ultraedit.linalg.shift import LowRank
from ultraedit.storage import Layout
from ultraedit.storage.factors import read_factors, write_factors, write_record

KINDS = {"no save": None, "save": False, "save and journal": True}


def demo(turns: int) -> dict[str, Any]:
    edits = [case.edit for case in read_cases(str(CASES_FILE), limit=100 * turns)]
    result: dict[str, Any] = {}
    for kind, journal in KINDS.items():
        editor = Editor.from_pretrained(
            "demo", method="ultraedit", lr=0.04, history="full" if journal else "none"
        )
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            for start in range(0, len(edits), 100):
                began = time.perf_counter()
                editor.edit(edits[start : start + 100])
                if journal is not None:
                    editor.save(Path(folder) / "out")
                seconds.append(time.perf_counter() - began)
            # The first turn also lays down the base.
            result[kind] = {"seconds of a turn": statistics.median(seconds[1:])}
            if journal:
                history = list(Layout(Path(folder) / "out").history.glob("*factors*"))
                result["bytes of a turn's shifts"] = statistics.median(
                    path.stat().st_size for path in history
                )
    plain = result["no save"]["seconds of a turn"]
    for kind in KINDS:
        result[kind]["ratio"] = result[kind]["seconds of a turn"] / plain
    return result


def mistral(modules: int = 2, d: int = 14336, e: int = 4096, n: int = 500) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    masters = {f"m{i}": random(e, d) for i in range(modules)}
    shifts = {name: LowRank(random(n, d), random(n, e), torch.arange(n) // 5) for name in masters}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds: dict[str, float] = {}

        def timed(what: str, function: Any) -> Any:
            began = time.perf_counter()
            value = function()
            seconds[what] = time.perf_counter() - began
            return value

        served = {key: master.bfloat16() for key, master in masters.items()}
        record = timed(
            "write shifts", lambda: write_factors(folder / "f.safetensors", [shifts], None)
        )
        timed("write weights", lambda: write_record(folder / "e.safetensors", served))
        timed("write masters", lambda: write_record(folder / "m.safetensors", masters))
        (read,), _ = timed("read and check shifts", lambda: read_factors(folder, record))
        timed(
            "add shifts",
            lambda: [shifted(masters[key], read[key], True) for key in masters],
        )
        size = {path.name: path.stat().st_size for path in folder.iterdir()}
    return {
        "seconds": seconds,
        "bytes": {
            "shifts": size["f.safetensors"],
            "weights": size["e.safetensors"],
            "masters": size["m.safetensors"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("-o", "--out", type=Path, default=Path("history_cost.json"))
    arguments = parser.parse_args()
    result = {"demo": demo(arguments.turns), "mistral": mistral()}
    text = json.dumps(result, indent=2)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
