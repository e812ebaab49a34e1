"""Building records from a knowledge base of Wikidata5M's size and layout: seconds and memory.

    python benchmarks/bench_build_scale.py --facts 5000000 --records 2000000 -o scale.json

The facts are made up: entities have random names, every triple a random subject, relation and
object. `bench-build` runs in a process of its own, whose peak memory is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from ultraedit.benchmark_data.templates import known_relations
from ultraedit.cli.console import progress_lines

SYLLABLES = ["ka", "lo", "mi", "ren", "su", "tor", "vel", "wen", "zar", "ber", "dun", "fir", "gal"]


def make(folder: Path, facts: int, entities: int, seed: int) -> None:
    """Write the three files of Wikidata5M."""
    chance = random.Random(seed)
    with open(folder / "wikidata5m_entity.txt", "w", encoding="utf-8") as file:
        for number in range(entities):
            words = [
                "".join(chance.choices(SYLLABLES, k=chance.randrange(2, 5))).title()
                for _ in range(chance.randrange(1, 4))
            ]
            name = " ".join(words) + f" {number}"
            file.write(f"Q{number}\t{name}\t{name}, also\t{words[0]}\n")
    relations = list(known_relations())
    with open(folder / "wikidata5m_relation.txt", "w", encoding="utf-8") as file:
        for identifier, (name, _) in known_relations().items():
            file.write(f"{identifier}\t{name}\n")
    with (
        open(folder / "wikidata5m_transductive_train.txt", "w", encoding="utf-8") as file,
        progress_lines("making facts", facts) as advance,
    ):
        for number in range(facts):
            subject, thing = chance.randrange(entities), chance.randrange(entities)
            file.write(f"Q{subject}\t{chance.choice(relations)}\tQ{thing}\n")
            if number % 100_000 == 0:
                advance(100_000)


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; its seconds, its peak memory, and what it printed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    output = process.communicate()[0]
    return {
        "seconds": time.perf_counter() - began,
        "peak_bytes": peak,
        "result": json.loads(output),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=int, default=5_000_000)
    parser.add_argument("--entities", type=int, default=4_800_000)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("bench_build_scale.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, arguments.facts, arguments.entities, arguments.seed)
        found = measured(
            [
                sys.executable, "-m", "ultraedit", "bench-build", name, "-o", str(folder / "set"),
                "--limit", str(arguments.records), "--shuffle", "--json",
            ]
        )  # fmt: skip
        size = sum(path.stat().st_size for path in (folder / "set").rglob("*.parquet"))
    found |= {"facts": arguments.facts, "entities": arguments.entities, "bytes": size}
    text = json.dumps(found, indent=2)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
