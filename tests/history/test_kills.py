"""A real process, killed again and again; the long run of this is `benchmarks/kills.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"
KILLS = 25
WORDS = ["paris", "france", "jazz", "guitar", "city", "person", "born", "plays"]


@pytest.mark.parametrize(("architecture", "dtype"), [("llama", "float32"), ("gpt2", "bfloat16")])
def test_kills_at_random_moments_lose_nothing_and_resume_to_the_same_bits(
    build, tokenizer, tmp_path, architecture, dtype
):
    model = build(architecture).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    facts = tmp_path / "facts.jsonl"
    with facts.open("w") as stream:
        for number in range(16):
            prompt = f"{WORDS[number % 8]} in {WORDS[number * 3 % 7]} is"
            record = {"prompt": prompt, "target": WORDS[number * 5 % 8]}
            stream.write(json.dumps(record) + "\n")
    done = subprocess.run(
        [
            sys.executable, SCRIPT, "--kills", str(KILLS), "--model", tmp_path / "model",
            "--facts", facts, "--turn-size", "2", "--lr", "0.001",
        ],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert sum(result["kills"].values()) == KILLS
    assert result["kills"]["write"] >= KILLS // 3
    assert result["kills"]["commit"] >= KILLS // 3
    assert result["turns_of_a_run"] == 8
