"""Whether a running vLLM answers from what `push` sends it as the edited checkpoint does.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1 \\
        vllm serve BASE --enable-lora --max-lora-rank 256 --dtype float32
    python benchmarks/vllm_engine.py OUT FILE --url http://localhost:8000 -o vllm_engine.json

OUT was edited from BASE with the records of FILE. Its edits, their rephrases and their neighbours
(locality questions) are asked greedily: in the edited checkpoint by transformers, and from vLLM
with nothing pushed, with adapters of several ranks, and with whole weights. At the end the server
has its base again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from answers import TOKENS, by_checkpoint, compared, questions

from ultraedit.cli.console import progress_lines, quiet_libraries
from ultraedit.errors import UltraEditError
from ultraedit.export.source import origin
from ultraedit.serving.engines import Vllm
from ultraedit.serving.push import push
from ultraedit.serving.server import Server
from ultraedit.storage.manifest import read_manifest


def by_engine(server: Server, model: str, prompts: list[str]) -> list[str]:
    said = []
    with progress_lines("vLLM", len(prompts)) as advance:
        for prompt in prompts:
            body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.0}
            said.append(server.post("/v1/completions", body)["choices"][0]["text"])
            advance(1)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("file")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("-n", "--limit", type=int, default=50, help="edits to ask for")
    parser.add_argument("--ranks", default="16,64,256")
    parser.add_argument("-o", "--output", type=Path, default=Path("vllm_engine.json"))
    args = parser.parse_args()
    quiet_libraries()
    asked = questions(args.file, args.limit)
    prompts = [prompt for _, prompt, _ in asked]
    base = origin(args.out, read_manifest(args.out)).name or ""
    server = Server(args.url)
    served = server.get("/v1/models")["data"][0]["id"]
    expected, unedited = by_checkpoint(args.out, prompts), by_checkpoint(Path(base), prompts)
    result: dict[str, Any] = {"checkpoint": compared(asked, expected, expected)}
    result["unedited"] = compared(asked, unedited, by_engine(server, served, prompts))
    pushes = [(f"adapter of rank {rank}", "adapter", int(rank)) for rank in args.ranks.split(",")]
    for label, form, rank in [*pushes, ("weights", "weights", None)]:
        engine = Vllm(server, f"rank-{rank}" if rank else "weights")
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            try:
                done = push(
                    args.out, engine, form=form, rank=rank, folder=folder, asked=0,
                    base_as=served,
                )  # fmt: skip
            except UltraEditError as error:
                result[label] = {"refused": str(error)}
                print(label, error, flush=True)
                continue
            seconds = time.perf_counter() - began
            model = engine.asked(done.version) or served
            row = compared(asked, expected, by_engine(server, model, prompts))
            result[label] = row | {"seconds of the push": seconds}
            print(label, json.dumps(result[label]), flush=True)
            engine.unload(done.version, base)
    again = compared(asked, unedited, by_engine(server, served, prompts))
    result["base again"] = again
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
