"""Whether llama.cpp answers as transformers does, from an edited model that its converter read.

    pip install xllamacpp sentencepiece
    python benchmarks/llama_cpp.py OUT CONVERTER FILE -o llama_cpp.json

OUT is the folder of an edited model. CONVERTER is `convert_hf_to_gguf.py` in a source tree of
llama.cpp, with `gguf-py` and `conversion` beside it. The model is converted in float32, and keys
and values are kept in it, so that nothing but the two programs' arithmetic differs. FILE holds
the edits; their prompts are asked as plain text and in the chat template.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultraedit.data import read_cases

PLAIN = ["The capital of Spain is", "Water boils at", "The first book of the Bible is"]


def converted(out: Path, converter: Path, gguf: Path) -> list[str]:
    """Run the converter; the tensors' names in the file it wrote."""
    from gguf import GGUFReader

    paths = [str(converter.parent / "gguf-py"), str(converter.parent)]
    subprocess.run(
        [sys.executable, converter, out, "--outfile", gguf, "--outtype", "f32"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    return [tensor.name for tensor in GGUFReader(gguf).tensors]


def by_transformers(out: Path, prompts: list[str], tokens: int) -> tuple[int, list[str], list[str]]:
    """Number of weights, and the answers as plain text and in the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()

    def answer(ids: torch.Tensor) -> str:
        made = model.generate(ids, max_new_tokens=tokens, do_sample=False)
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)

    plain = [answer(tokenizer(p, return_tensors="pt").input_ids) for p in prompts]
    chat = []
    if tokenizer.chat_template:
        for prompt in prompts:
            message = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            chat.append(answer(ids))
    return len(model.state_dict()), plain, chat


def by_llama_cpp(gguf: Path, prompts: list[str], tokens: int) -> tuple[list[str], list[str]]:
    """The same from llama.cpp's own server, which applies the template it found in the file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = 1024
    params.verbosity = 0
    # By default it keeps keys and values in float16.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    greedy = {"temperature": 0.0, "max_tokens": tokens}
    plain = [
        server.handle_completions({"prompt": prompt, **greedy})["choices"][0]["text"]
        for prompt in prompts
    ]
    chat = [
        server.handle_chat_completions(
            {"messages": [{"role": "user", "content": prompt}], **greedy}
        )["choices"][0]["message"]["content"]
        for prompt in prompts
    ]
    return plain, chat


def rows(prompts: list[str], expected: list[str], said: list[str]) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt, "transformers": one, "llama.cpp": other, "equal": one == other}
        for prompt, one, other in zip(prompts, expected, said, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("converter", type=Path)
    parser.add_argument("file")
    parser.add_argument("-n", "--limit", type=int, default=50, help="edits to ask for")
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    prompts = [case.edit.prompt for case in read_cases(args.file, limit=args.limit)] + PLAIN
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "model.gguf"
        names = converted(args.out, args.converter, gguf)
        size = gguf.stat().st_size
        count, plain, chat = by_transformers(args.out, prompts, args.tokens)
        plain_said, chat_said = by_llama_cpp(gguf, prompts, args.tokens)
    result = {
        "tensors": len(names),
        "weights": count,
        "bytes": size,
        "plain": rows(prompts, plain, plain_said),
        "chat": rows(prompts, chat, chat_said) if chat else [],
    }
    for kind in ("plain", "chat"):
        found = result[kind]
        print(f"{kind}: {sum(row['equal'] for row in found)} of {len(found)} answers equal")
        for row in found:
            if not row["equal"]:
                print(f"  {row['prompt']!r}: {row['transformers']!r}, {row['llama.cpp']!r}")
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
