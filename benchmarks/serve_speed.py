"""What edit sets cost a server: tokens per second, memory, and the way from a fact to its answer.

    python benchmarks/serve_speed.py smollm2 -o serve_speed.json

Three facts are written into one set. Then 1, 8 and 64 answers are decoded together: with the base
alone, all with this set, and each with a set of its own (copies of its factors, which cost what
other sets cost). Speed is given relative to the base's in the same run, and the base's relative to
`generate` of transformers over the same prompts. Last, one answer is decoded while another three
facts are written, and the longest time between two of its tokens is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from shapes import machine
from transformers import GenerationConfig

from ultraedit import Edit
from ultraedit.cli.console import quiet_libraries
from ultraedit.service.base import Base
from ultraedit.service.overlay import NOTHING, Overlay
from ultraedit.service.sampling import Sampling
from ultraedit.service.service import Service
from ultraedit.service.turns import Job

FACTS = [
    Edit("What is the capital of France?", "Berlin"),
    Edit("Who wrote Hamlet?", "Jane Austen"),
    Edit("What is the largest planet?", "Venus"),
]
OTHERS = [
    Edit("What is the capital of Spain?", "Lisbon"),
    Edit("Who painted the Mona Lisa?", "Vincent van Gogh"),
    Edit("What is the tallest mountain?", "Mont Blanc"),
]
PROMPT = "Once upon a time there was a small village at the foot of a mountain, and"


async def decoded(
    service: Service, prompt: list[int], overlays: list[Overlay], count: int
) -> float:
    """Seconds until all answers of `count` tokens have come."""
    sampling = Sampling(count, temperature=0.0)
    began = time.perf_counter()
    running = [service.batcher.submit(prompt, one, sampling) for one in overlays]

    async def read(one: Any) -> int:
        return len([token async for token in one])

    made = await asyncio.gather(*map(read, running))
    assert made == [count] * len(overlays), "an answer ended early"
    return time.perf_counter() - began


def by_transformers(service: Service, prompt: list[int], rows: int, count: int) -> float:
    config = GenerationConfig(
        do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
    )
    ids = torch.tensor([prompt] * rows)
    mask = torch.ones_like(ids)
    began = time.perf_counter()
    service.base.model.generate(ids, attention_mask=mask, generation_config=config)
    return time.perf_counter() - began


async def until_ended(job: Job) -> float:
    began = time.perf_counter()
    await job.wait()
    assert job.status == "done", job.error
    return time.perf_counter() - began


async def gaps(service: Service, prompt: list[int], overlay: Overlay, until: asyncio.Task[Any]
               ) -> list[float]:  # fmt: skip
    """Seconds between the tokens of answers that are asked for until a task has ended."""
    found = []
    while not until.done():
        last = time.perf_counter()
        async for _ in service.batcher.submit(prompt, overlay, Sampling(64, temperature=0.0)):
            now = time.perf_counter()
            found.append(now - last)
            last = now
    return found


async def measured(service: Service, arguments: argparse.Namespace) -> dict[str, Any]:
    prompt = service.tokenizer(PROMPT).input_ids
    service.batcher.stops.clear()
    service.sets.create("facts")
    result: dict[str, Any] = {}
    job = service.turns.submit(Job("facts", "benchmark", tuple(FACTS)))
    result["seconds of the first turn"] = await until_ended(job)
    own = service.sets.overlay("facts")
    described = service.sets.describe("facts")
    result["rank"], result["bytes of a set"] = described["rank"], described["bytes"]
    rows: list[dict[str, Any]] = []
    for count in (1, 8, 64):
        copies = [Overlay(dict(own.factors)) for _ in range(count)]
        kinds = {"base": [NOTHING] * count, "one set": [own] * count, "a set each": copies}
        seconds: dict[str, list[float]] = {kind: [] for kind in (*kinds, "generate")}
        for _ in range(arguments.repeats):
            for kind, overlays in kinds.items():
                seconds[kind].append(await decoded(service, prompt, overlays, arguments.tokens))
            seconds["generate"].append(by_transformers(service, prompt, count, arguments.tokens))
        median = {kind: statistics.median(values) for kind, values in seconds.items()}
        rows.append({
            "answers": count,
            "base, tokens a second": count * arguments.tokens / median["base"],
            "base / generate": median["generate"] / median["base"],
            "one set / base": median["base"] / median["one set"],
            "a set each / base": median["base"] / median["a set each"],
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    result["rows"] = rows
    quiet = asyncio.create_task(asyncio.sleep(20))
    calm = await gaps(service, prompt, own, quiet)
    edit = asyncio.create_task(
        until_ended(service.turns.submit(Job("facts", "benchmark", tuple(OTHERS))))
    )
    busy = await gaps(service, prompt, own, edit)
    result["seconds of the second turn"] = edit.result()
    for name, found in (("calm", calm), ("while editing", busy)):
        ordered = sorted(found)
        result[f"seconds between tokens, {name}"] = {
            "median": statistics.median(ordered), "p99": ordered[int(0.99 * len(ordered))],
            "longest": ordered[-1], "tokens": len(ordered),
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("serve_speed.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Base.load(arguments.model), Path(folder) / "data")

        async def run() -> dict[str, Any]:
            found = await measured(service, arguments)
            await service.close(5)
            return found

        result = {
            "machine": machine(torch.device("cpu")),
            "model": arguments.model,
            **asyncio.run(run()),
        }
    print(json.dumps(result, indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
