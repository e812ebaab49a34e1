"""What not recomputing the frozen blocks saves, in a turn and in a second pass over it.

    python benchmarks/prefix.py -o prefix.json

A Llama with random weights, 24 blocks of width 512, whose last but two and last but one down
projections are edited, as in the paper's choice for Mistral-7B. Both sides take turns within
one run; every figure is a median. A turn is `Editor.edit` of 100 edits, or of one, at a given
step: one capture and one scoring. A further pass is one capture and one scoring of the same texts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ultraedit import Edit, Editor
from ultraedit.core.passes import Passes
from ultraedit.data import read_cases
from ultraedit.demo import CASES_FILE, MODEL_FOLDER

BLOCKS = 24


def editor_of(dtype: torch.dtype, prefixed: bool) -> Editor:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1792,
            num_hidden_layers=BLOCKS, num_attention_heads=8, num_key_value_heads=2,
        )
    ).to(dtype)  # fmt: skip
    modules = [f"model.layers.{n}.mlp.down_proj" for n in (BLOCKS - 3, BLOCKS - 2)]
    editor = Editor(model, tokenizer, modules=modules, lr=1e-4, journal=False)
    if not prefixed:
        editor.bench.passes.plain()
    return editor


def seconds(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(dtype: torch.dtype, edits: list[Edit], repeats: int) -> dict[str, Any]:
    editors = {name: editor_of(dtype, name == "prefix") for name in ("whole", "prefix")}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in editors}
    for repeat in range(repeats + 1):
        for name, editor in editors.items():
            bench = editor.bench
            texts = [bench.encoder.encode(edit.prompt, edit.answers[0]) for edit in edits]

            def again(bench: Any = bench, texts: Any = texts) -> None:
                bench.capture(texts)
                bench.score(texts)

            def forward(bench: Any = bench, texts: Any = texts) -> None:
                passes, bench.passes = bench.passes, Passes(bench.model, split=False)
                bench.score(texts)
                bench.passes = passes

            taken = {
                "turn of 100": seconds(lambda editor=editor: editor.edit(edits)),
                "single edit": seconds(lambda editor=editor: editor.edit(edits[:1])),
                "plain forward": seconds(forward),
            }
            again()
            taken["further pass"] = seconds(again)
            bench.forget()
            for what, value in taken.items():
                # The first round warms up.
                times[name].setdefault(what, []).extend([value] if repeat else [])
    medians = {
        name: {what: statistics.median(values) for what, values in held.items()}
        for name, held in times.items()
    }
    ratios = {what: medians["whole"][what] / medians["prefix"][what] for what in medians["whole"]}
    floor = medians["prefix"]["plain forward"]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "blocks": BLOCKS,
        "seconds": medians,
        "whole / prefix": ratios,
        "turn / plain forward": {n: m["turn of 100"] / floor for n, m in medians.items()},
        "further pass / plain forward": {n: m["further pass"] / floor for n, m in medians.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path, default=Path("prefix.json"))
    arguments = parser.parse_args()
    edits = [case.edit for case in read_cases(str(CASES_FILE), limit=100)]
    rows = [measure(dtype, edits, arguments.repeats) for dtype in (torch.float32, torch.bfloat16)]
    text = json.dumps(rows, indent=2)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
