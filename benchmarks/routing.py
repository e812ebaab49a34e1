"""Why WISE routes as it does: activation scores of edited questions beside those of others.

    python benchmarks/routing.py demo src/ultraedit/demo/cases.jsonl -n 100 -o routing.json

After all edits, one by one, every edit's own prompt, its rephrases and its locality prompts are
scored by the side memory, over all of their tokens, as the paper does, and over the last token
alone. `auc` is how often an edited question scores above one that is about something else.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import machine
from torch import Tensor

from ultraedit import Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases
from ultraedit.encoding.tokenise import Encoded
from ultraedit.methods.wise.training import ModuleInputs, module_inputs


def lengths(seen: ModuleInputs, delta: Tensor) -> list[Tensor]:
    """|a (W' - W)| of every token, text by text."""
    found = (seen.inputs @ delta).norm(dim=1)
    return [found[seen.text == number] for number in range(seen.count)]


def auc(inside: list[float], outside: list[float]) -> float:
    ours, others = torch.tensor(inside)[:, None], torch.tensor(outside)[None, :]
    return float((ours > others).double().mean() + 0.5 * (ours == others).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, default=Path("routing.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    cases = list(read_cases(arguments.file, limit=arguments.n))
    editor = Editor.from_pretrained(arguments.model, method="wise", history="none")
    workbench, method = editor.workbench, editor.method
    for case in cases:
        editor.edit([case.edit])
    (target,) = workbench.targets.values()
    asked = {"edit": [case.edit.prompt for case in cases]}
    for kind in ("rephrase", "locality"):
        asked[kind] = [p.prompt for case in cases for p in case.probes if p.kind == kind]
    delta = method.state.live.delta
    tokens: dict[str, list[Tensor]] = {}
    words: dict[str, list[float]] = {}
    for kind, prompts in asked.items():
        ids = [tuple(workbench.encoder.prompt_ids(prompt)) for prompt in prompts]
        with method.bypassed():
            seen = module_inputs(workbench, target.module, [Encoded(i, i[-1:], 1) for i in ids])
        tokens[kind] = lengths(seen, delta)
        for text, found in zip(ids, tokens[kind], strict=True):
            for token, length in zip(text[1:], found.tolist(), strict=True):
                words.setdefault(workbench.tokenizer.decode([token]).strip(), []).append(length)
    scores = {
        "mean over tokens": {k: [float(t.mean()) for t in v] for k, v in tokens.items()},
        "last token": {k: [float(t[-1]) for t in v] for k, v in tokens.items()},
    }
    rows: list[dict[str, Any]] = [
        {
            "scored": name, "unit": method.state.unit, "least of edits": method.state.live.least,
            **{k: float(torch.tensor(v).median()) for k, v in found.items()},
            "auc edit": auc(found["edit"], found["locality"]),
            "auc rephrase": auc(found["rephrase"], found["locality"]),
        }
        for name, found in scores.items()
    ]  # fmt: skip
    whole = sum(sum(v) for v in words.values())
    loudest = sorted(words.items(), key=lambda item: -sum(item[1]))[:10]
    share = {word: sum(found) / whole for word, found in loudest}
    table = Table("scored", "edit", "rephrase", "locality", "auc edit", "auc rephrase")
    for row in rows:
        numbers = (row[k] for k in ("edit", "rephrase", "locality", "auc edit", "auc rephrase"))
        table.add_row(row["scored"], *(f"{number:.3f}" for number in numbers))
    Console().print(table, share)
    result = {"machine": machine(torch.device("cpu")), "rows": rows, "share of words": share}
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
