"""Peak memory beside the weights: as `ultraedit inspect` states it, and as it is.

    python benchmarks/memory.py -o memory.json

Every row is a process of its own. On a CPU the peak is that of the resident set less what was
resident once the model was loaded; on a GPU it is what its allocator gave out at most, less the
same. Models have random weights; turns are of 100 edits of about 22 tokens, looked ahead to as a
run of the command line does.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from shapes import machine, random_edits, used_bytes, watched, word_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from ultraedit import Editor
from ultraedit.forward.prefix import LOOKAHEAD_EDITS
from ultraedit.history.run import Progress, write_all
from ultraedit.models.memory import edit_memory

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 3584,
    "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4,
    "vocab_size": 32000,
}  # fmt: skip
SMALL = {
    "hidden_size": 64, "intermediate_size": 64, "n_embd": 64, "num_hidden_layers": 2, "n_layer": 2,
}  # fmt: skip
DOWN = ["model.layers.9.mlp.down_proj", "model.layers.10.mlp.down_proj"]
UP = [f"model.layers.{n}.mlp.{kind}_proj" for n in (4, 5, 7, 8) for kind in ("gate", "up")]
GPT2 = {
    "model_type": "gpt2", "n_embd": 1024, "n_layer": 12, "n_head": 16, "vocab_size": 50257,
}  # fmt: skip
SEVEN_B = LLAMA | {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 6, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32768, "sliding_window": None,
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], str, Any, int]] = {
    "llama, two downs": (LLAMA, "float32", DOWN, 100),
    "llama, two downs, bf16": (LLAMA, "bfloat16", DOWN, 100),
    "llama, gates and ups": (LLAMA, "float32", UP, 100),
    "llama, gates and ups, bf16": (LLAMA, "bfloat16", UP, 100),
    "llama, one edit": (LLAMA, "float32", DOWN, 1),
    "llama, turns of 1000": (LLAMA, "float32", DOWN, 1000),
    "gpt2, rule": (GPT2, "float32", "auto", 100),
    "mistral-7b shape, 6 blocks, bf16": (
        SEVEN_B, "bfloat16",
        ["model.layers.3.mlp.down_proj", "model.layers.4.mlp.down_proj"], 100,
    ),
}  # fmt: skip


def measure(name: str, device: torch.device) -> dict[str, Any]:
    options, dtype, modules, turn_size = CASES[name]
    config = AutoConfig.for_model(**options, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    tokenizer = word_tokenizer(config.vocab_size)
    # What libraries load with the first edit is not the edit's.
    small = AutoConfig.for_model(**options | SMALL, bos_token_id=1, eos_token_id=2)
    with torch.device(device):
        Editor(AutoModelForCausalLM.from_config(small), tokenizer, lr=1e-6, history="none").edit(
            random_edits(2, config.vocab_size, 1)
        )
    gc.collect()
    loaded = used_bytes(device)
    edits = random_edits(max(3 * turn_size, LOOKAHEAD_EDITS), config.vocab_size, 0)

    turns = iter(range(3))

    def run() -> Editor:
        editor = Editor(
            model, tokenizer, method="ultraedit", modules=modules, lr=1e-6, history="none"
        )
        progress = Progress("", turn_size, len(edits), lookahead=0).resolved()
        write_all(editor, iter(edits), progress, save=None, stop=lambda: next(turns, None) is None)
        return editor

    _, peak, editor = watched(device, run)
    stated = edit_memory(
        model, editor.modules, turn_size, device.type, editor.workbench.batch_tokens
    )
    return {
        "what": name, "dtype": dtype, "blocks": config.num_hidden_layers, "turn": turn_size,
        "batch tokens": editor.workbench.batch_tokens, "loaded": loaded, "measured": peak,
        "stated": stated["peak"], "stated / measured": stated["peak"] / peak if peak else None,
        "parts": stated,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="measure this case in this process and print it")
    parser.add_argument("--cases", default=",".join(map(str, range(len(CASES)))))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--out", type=Path, default=Path("memory.json"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.only:
        print(json.dumps(measure(arguments.only, device)))
        return
    result: dict[str, Any] = {"machine": machine(device), "rows": []}
    for number in arguments.cases.split(","):
        name = list(CASES)[int(number)]
        command = [sys.executable, __file__, "--only", name, "--device", arguments.device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.strip().splitlines()[-1])
        result["rows"].append(row)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        print(
            f"{name:36}{row['measured'] / 1e6:10.1f} MB measured{row['stated'] / 1e6:10.1f} MB"
            f" stated {row['stated / measured']:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
