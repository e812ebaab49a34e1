"""Many clients at once: whether every answer is right, and whether any edit is lost.

    python benchmarks/serve_load.py demo --seconds 120 -o serve_load.json
    python benchmarks/serve_load.py demo --seconds 120 --kill-every 10 -o serve_kills.json

Starts `ultraedit serve`, and lets clients ask while others edit, each in a set of its own. With
`--kill-every` the server is killed with SIGKILL and started again; an edit that got no answer is
sent again with the same idempotency key. Afterwards:

- every acknowledged edit has to be in its set's journal, once;
- every answer names the version of the set that it is of (`system_fingerprint`): one prompt has
  one answer in one version, and never an older version after a newer one was acknowledged;
- the last version's answers have to be those of the set's folder, read by transformers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import torch
from shapes import machine

from ultraedit.cli.console import quiet_libraries
from ultraedit.demo.facts import subjects

TOKENS = 8
QUESTIONS = ("What is the capital of {}?", "Who founded {}?", "Where was {} born?")
ANSWERS = ("Paris", "Oslo", "Lisbon", "Tokyo", "Berlin", "Madrid", "Rome", "Cairo")


@dataclass
class Seen:
    """What all clients saw.

    Attributes:
        answers: (model, version, prompt) -> the answers that came, and how often.
        stale: Answers of a version older than one that had been acknowledged before the question.
        acknowledged: Set -> ids of edits whose answer said `done`.
        failures: What went wrong otherwise, while the server was there.
    """

    answers: dict[tuple[str, str, str], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    stale: list[str] = field(default_factory=list)
    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    prompts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    asked: list[float] = field(default_factory=list)
    edited: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    retries: int = 0


class Server:
    """`ultraedit serve` in a process of its own."""

    def __init__(self, arguments: argparse.Namespace, data: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [
            sys.executable, "-m", "ultraedit", "serve", arguments.model, "--data", str(data),
            "--port", str(self.port), "--name", "served", "--method", arguments.method,
            "--requests-per-minute", "1000000",
        ]  # fmt: skip
        self.log = (data.parent / "log").open("ab")
        self.starts: list[float] = []
        self.key = ""
        self.start()

    def start(self) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        while not self.answers():
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended: {Path(self.log.name).read_text()}")
            time.sleep(0.1)
        self.starts.append(time.perf_counter() - began)
        if not self.key:
            text = Path(self.log.name).read_text()
            self.key = next(word for word in text.split() if word.startswith("ue-"))

    def answers(self) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
        except httpx2.HTTPError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        return time.perf_counter() - began

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False,
            headers={"Authorization": f"Bearer {self.key}"},
        )  # fmt: skip


async def asking(client: httpx2.AsyncClient, seen: Seen, sets: list[str], until: float, seed: int
                 ) -> None:  # fmt: skip
    chance = random.Random(seed)
    while time.monotonic() < until:
        name = chance.choice([*sets, ""])
        known = seen.prompts[name or chance.choice(sets)]
        prompt = chance.choice(known) if known else QUESTIONS[0].format("France")
        model = f"served:{name}" if name else "served"
        at_least, began = seen.entries[name], time.perf_counter()
        body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
        try:
            answer = await client.post("/v1/completions", json=body)
        except httpx2.HTTPError:
            # The server is being killed, or comes back.
            await asyncio.sleep(0.2)
            continue
        if answer.status_code != 200:
            seen.failures[f"{answer.status_code} {answer.text[:100]}"] += 1
            continue
        seen.asked.append(time.perf_counter() - began)
        found = answer.json()
        version = found["system_fingerprint"]
        seen.answers[model, version, prompt][found["choices"][0]["text"]] += 1
        if name and entry_of(version, name) < at_least:
            seen.stale.append(f"{version} after entry {at_least}")


def entry_of(version: str, name: str) -> int:
    assert version.startswith(f"{name}@"), version
    return int(version.removeprefix(f"{name}@").partition("-")[0])


async def editing(client: httpx2.AsyncClient, seen: Seen, name: str, until: float) -> None:
    chance, names = random.Random(name), list(subjects(5000))
    count = 0
    while time.monotonic() < until:
        count += 1
        prompt = chance.choice(QUESTIONS).format(chance.choice(names))
        edit = {"id": f"{name}-{count}", "prompt": prompt, "target": chance.choice(ANSWERS)}
        began = time.perf_counter()
        while True:
            try:
                answer = await client.post(
                    f"/v1/sets/{name}/edits", json={"edits": [edit]},
                    headers={"Idempotency-Key": edit["id"]},
                )  # fmt: skip
                if answer.status_code == 200:
                    break
                if answer.status_code != 503:
                    seen.failures[f"{answer.status_code} {answer.text[:100]}"] += 1
            except httpx2.HTTPError:
                pass
            seen.retries += 1
            await asyncio.sleep(0.2)
        seen.edited.append(time.perf_counter() - began)
        seen.acknowledged[name].append(edit["id"])
        seen.prompts[name].append(prompt)
        seen.entries[name] = max(seen.entries[name], answer.json()["entry"])


async def killing(server: Server, every: float, until: float) -> int:
    kills = 0
    while every and time.monotonic() + every < until:
        await asyncio.sleep(every)
        server.kill()
        await asyncio.to_thread(server.start)
        kills += 1
    return kills


async def load(server: Server, seen: Seen, arguments: argparse.Namespace) -> int:
    sets = [f"team-{number}" for number in range(arguments.editors)]
    async with server.client() as client:
        for name in sets:
            (await client.post("/v1/sets", json={"id": name})).raise_for_status()
        until = time.monotonic() + arguments.seconds
        asks = [asking(client, seen, sets, until, seed) for seed in range(arguments.askers)]
        edits = [editing(client, seen, name, until) for name in sets]
        *_, kills = await asyncio.gather(
            *asks, *edits, killing(server, arguments.kill_every, until)
        )
        for name in sets:
            for prompt in dict.fromkeys(seen.prompts[name]):
                body = {
                    "model": f"served:{name}", "prompt": prompt, "max_tokens": TOKENS,
                    "temperature": 0,
                }  # fmt: skip
                found = (await client.post("/v1/completions", json=body)).json()
                key = f"served:{name}", found["system_fingerprint"], prompt
                seen.answers[key][found["choices"][0]["text"]] += 1
    return kills


def lost(data: Path, seen: Seen) -> tuple[list[str], list[str]]:
    """Acknowledged edits that no journal has, and edits that a journal has twice."""
    from ultraedit.history.effect import edits_in_effect

    missing, twice = [], []
    for name, ids in seen.acknowledged.items():
        counts = Counter(one.id for one in edits_in_effect(data / "sets" / name / "model"))
        missing += [one for one in ids if one not in counts]
        twice += [one for one, count in counts.items() if count > 1]
    return missing, twice


def as_on_disk(data: Path, seen: Seen) -> tuple[int, int]:
    """How many answers of the last versions are those of the folders, and how many there are."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    same = whole = 0
    for name in seen.acknowledged:
        folder = data / "sets" / name / "model"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        newest = max(
            (version for where, version, _ in seen.answers if where == f"served:{name}"),
            key=lambda version: entry_of(version, name),
        )
        for prompt in dict.fromkeys(seen.prompts[name]):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            made = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)
            text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
            said = seen.answers[f"served:{name}", newest, prompt]
            whole += 1
            same += set(said) == {text}
    return same, whole


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered), "median": statistics.median(ordered),
        "p95": ordered[int(0.95 * len(ordered))], "longest": ordered[-1],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--askers", type=int, default=50)
    parser.add_argument("--editors", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--kill-every", type=float, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("serve_load.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    seen = Seen()
    with tempfile.TemporaryDirectory() as home:
        data = Path(home) / "data"
        server = Server(arguments, data)
        try:
            kills = asyncio.run(load(server, seen, arguments))
        finally:
            stopped = server.stop() if server.process.poll() is None else None
        missing, twice = lost(data, seen)
        same, whole = as_on_disk(data, seen)
        errors = Path(server.log.name).read_text(errors="replace").count("Traceback")
    result: dict[str, Any] = {
        "machine": machine(torch.device("cpu")),
        "arguments": {k: str(v) for k, v in vars(arguments).items()},
        "acknowledged edits": sum(map(len, seen.acknowledged.values())),
        "lost": missing, "written twice": twice,
        "answers": sum(sum(one.values()) for one in seen.answers.values()),
        "prompts with two answers in one version": sum(
            len(one) > 1 for one in seen.answers.values()
        ),
        "answers of an older version": seen.stale,
        "last answers as on disk": f"{same} of {whole}",
        "failures": dict(seen.failures), "tracebacks in the log": errors,
        "kills": kills, "edits sent again": seen.retries,
        "seconds of a start": quantiles(server.starts), "seconds of a stop": stopped,
        "seconds of a question": quantiles(seen.asked),
        "seconds of an edit": quantiles(seen.edited),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    if missing or twice or seen.stale or seen.failures or errors:
        raise SystemExit(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
