"""A real process, killed again and again; the long run of this is `benchmarks/kills.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from ultraedit.methods.registry import DEFAULT

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"
KILLS = 9
FEWER = 3  # of the methods that are not the default
WORDS = ["paris", "france", "jazz", "guitar", "city", "person", "born", "plays"]


def killed(build, tokenizer, folder, architecture, dtype, kills, method, settings):
    """What the benchmark says of so many kills of a run with that method."""
    model = build(architecture).to(getattr(torch, dtype))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    facts = folder / "facts.jsonl"
    with facts.open("w") as stream:
        for number in range(16):
            prompt = f"{WORDS[number % 8]} in {WORDS[number * 3 % 7]} is"
            record = {"prompt": prompt, "target": WORDS[number * 5 % 8]}
            stream.write(json.dumps(record) + "\n")
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [
            sys.executable, SCRIPT, "--kills", str(kills), "--model", folder / "model",
            "--facts", facts, "--turn-size", "2", "--method", method, *given,
        ],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert sum(result["kills"].values()) == kills
    assert result["turns_of_a_run"] == 8
    return result


def test_kills_lose_nothing_and_resume_to_the_same_bits(build, tokenizer, tmp_path, method, quick):
    kills = KILLS if method == DEFAULT else FEWER
    result = killed(build, tokenizer, tmp_path, "llama", "float32", kills, method, quick(method))
    assert result["kills"]["write"] >= kills // 3
    assert result["kills"]["commit"] >= kills // 3


def test_kills_in_half_precision(build, tokenizer, tmp_path, quick):
    killed(build, tokenizer, tmp_path, "gpt2", "bfloat16", KILLS, DEFAULT, quick(DEFAULT))
