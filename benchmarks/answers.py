"""What an edited checkpoint says to its edits and their probes, and whether an engine agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ultraedit.cli.console import progress_lines
from ultraedit.data import read_cases
from ultraedit.evaluation.matching import mentions

TOKENS = 12


def questions(file: str, limit: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Kind, prompt and accepted answers."""
    found = []
    for case in read_cases(file, limit=limit):
        found.append(("edits", case.edit.prompt, case.edit.answers))
        for kind, name in (("rephrase", "rephrases"), ("locality", "neighbours")):
            probe = next((one for one in case.probes if one.kind == kind), None)
            if probe is not None:
                found.append((name, probe.prompt, probe.answers))
    return found


def by_checkpoint(out: Path, prompts: list[str]) -> list[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    said = []
    with progress_lines("transformers", len(prompts)) as advance:
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            made = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)
            said.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
            advance(1)
    return said


def compared(
    asked: list[tuple[str, str, tuple[str, ...]]], expected: list[str], said: list[str]
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for kind in dict.fromkeys(kind for kind, _, _ in asked):
        own = [place for place, one in enumerate(asked) if one[0] == kind]
        first = [expected[place].split("\n")[0].strip() for place in own]
        other = [said[place].split("\n")[0].strip() for place in own]
        known = [mentions(text, asked[place][2]) for text, place in zip(other, own, strict=True)]
        rows[kind] = {
            "count": len(own),
            "equal": sum(a == b for a, b in zip(first, other, strict=True)) / len(own),
            "target named": sum(known) / len(own),
        }
    return rows
