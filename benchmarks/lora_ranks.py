"""How far an adapter answers as the edited checkpoint does, rank by rank.

    python benchmarks/lora_ranks.py -o lora_ranks.json

Edits the embedded model with 10 or 100 facts, exports it as a PEFT adapter, loads the adapter with
peft over the unedited model, and asks for the edits and for facts that should not have changed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from rich.table import Table

from ultraedit import Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases
from ultraedit.demo import CASES_FILE
from ultraedit.export import lora
from ultraedit.forward.generate import generate_answers
from ultraedit.models.load import load

RANKS = (4, 8, 16, 32, 64, 128, 256)


def ask(model: Any, editor: Editor, prompts: list[str]) -> list[str]:
    encoder = editor.workbench.encoder
    said = generate_answers(
        model,
        editor.tokenizer,
        [encoder.prompt_ids(prompt) for prompt in prompts],
        max_new_tokens=16,
        batch_tokens=2048,
        device=editor.workbench.device,
    )
    return [answer.text for answer in said]


def measure(edits: int, folder: Path) -> list[dict[str, Any]]:
    cases = list(read_cases(str(CASES_FILE), limit=edits))
    editor = Editor.from_pretrained("demo", method="ultraedit", dtype="float32")
    editor.edit([case.edit for case in cases])
    editor.save(folder / f"out{edits}")
    asked = {
        "edits": [case.edit.prompt for case in cases],
        "locality": [p.prompt for case in cases for p in case.probes if p.kind == "locality"],
    }
    expected = {kind: ask(editor.model, editor, prompts) for kind, prompts in asked.items()}
    rows = []
    for rank in RANKS:
        path = folder / f"adapter{edits}-{rank}"
        written = lora.write(folder / f"out{edits}", path, rank=rank)
        adapted = PeftModel.from_pretrained(load("demo", dtype="float32")[0], path).eval()
        row: dict[str, Any] = {
            "edits": edits,
            "rank": written.rank,
            "error": max(module.error for module in written.modules),
            "bytes": sum(file.stat().st_size for file in path.iterdir()),
        }
        for kind, prompts in asked.items():
            said = ask(adapted, editor, prompts)
            same = sum(one == other for one, other in zip(said, expected[kind], strict=True))
            row[f"same answers, {kind}"] = same / len(prompts)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("lora_ranks.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for edits in (10, 100) for row in measure(edits, Path(folder))]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
