"""Whether llama.cpp answers from our GGUF files and adapters as the edited checkpoint does.

    pip install xllamacpp
    python benchmarks/gguf_engine.py OUT FILE --ranks 16,64,256 -o gguf_engine.json

OUT was edited from a GGUF file with the records of FILE. Its edits, their rephrases and their
neighbours (locality questions) are asked greedily: in the edited checkpoint by transformers, and in
llama.cpp from the base's file with other weights (`f16`, `q8_0`, `same`) and from the base's file
with an adapter of each rank. A rank of 0 is the smallest that keeps all edits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from answers import TOKENS, by_checkpoint, compared, questions

from ultraedit.cli.console import quiet_libraries
from ultraedit.export import gguf, lora
from ultraedit.export.held import HeldEdits
from ultraedit.history.contributions import contributions
from ultraedit.models.gguf import converted_folder


def by_engine(file: Path, adapter: Path | None, prompts: list[str]) -> list[str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = 1024
    params.verbosity = 0
    # By default it keeps keys and values in float16.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    server = xllamacpp.Server(params)
    return [
        server.handle_completions({"prompt": prompt, "temperature": 0.0, "max_tokens": TOKENS})[
            "choices"
        ][0]["text"]
        for prompt in prompts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("file")
    parser.add_argument("-n", "--limit", type=int, default=50, help="edits to ask for")
    parser.add_argument("--kinds", default="f16,q8_0,same")
    parser.add_argument("--ranks", default="16,64,256,0")
    parser.add_argument("-o", "--output", type=Path, default=Path("gguf_engine.json"))
    args = parser.parse_args()
    quiet_libraries()
    asked = questions(args.file, args.limit)
    prompts = [prompt for _, prompt, _ in asked]
    expected = by_checkpoint(args.out, prompts)
    result: dict[str, Any] = {"checkpoint": compared(asked, expected, expected)}
    base = gguf.base_of(args.out, None)
    # How far the two programs differ without any edit: llama.cpp multiplies quantised weights with
    # activations that it rounds to eight bits.
    unedited = by_checkpoint(converted_folder(base), prompts)
    result["unedited"] = compared(asked, unedited, by_engine(base, None, prompts))
    print(json.dumps(result), flush=True)
    with tempfile.TemporaryDirectory() as name:
        for kind in args.kinds.split(",") if args.kinds else ():
            file = Path(name) / f"{kind}.gguf"
            gguf.write(args.out, file, kind=kind)
            row = compared(asked, expected, by_engine(file, None, prompts))
            result[kind] = row | {"bytes": file.stat().st_size}
            print(kind, json.dumps(result[kind]), flush=True)
            file.unlink()
        for text in args.ranks.split(","):
            adapter = Path(name) / "adapter.gguf"
            keeps = None if int(text) else HeldEdits(args.out).keeps(1.0)
            written = lora.write(
                args.out, adapter, rank=int(text) or None, keeps=keeps,
                shifts=contributions(args.out), form="gguf-lora",
            )  # fmt: skip
            row = compared(asked, expected, by_engine(base, adapter, prompts))
            label = f"rank {written.rank}{' (keeps all edits)' if keeps else ''}"
            result[label] = row | {"bytes": adapter.stat().st_size}
            print(label, json.dumps(result[label]), flush=True)
            adapter.unlink()
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
