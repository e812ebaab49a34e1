"""The parts of `anchored`, each left out in turn, on facts that a model knows by heart.

    python benchmarks/ablation.py WORLD -n 400 --seeds 1,2,3 -o ablation.json

FOLDER as for quality.py, whose rows these are; what was left out is in `without`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from quality import DEMO, World, run
from rich.console import Console
from rich.table import Table
from shapes import machine

from ultraedit.cli.console import quiet_libraries
from ultraedit.methods.anchored import Anchors, anchors, derive
from ultraedit.methods.anchored.memory import KeyMemory

MIDDLE = "model.layers.3.mlp.down_proj"
PARTS = (
    "nothing", "anchors", "curvature", "past keys", "watched anchors", "passes", "small steps",
    "all blocks but one",
)  # fmt: skip


@contextmanager
def without(part: str) -> Iterator[dict[str, object]]:
    """The method without one of its parts; yields the options that go with that."""
    measure = anchors.measure

    def flat(*given: object) -> dict[str, Anchors]:
        return {
            name: Anchors(torch.eye(len(one.metric)) * one.metric.diagonal().mean(), one.whitening)
            for name, one in measure(*given).items()  # type: ignore[arg-type]
        }

    def even(*given: object) -> dict[str, Anchors]:
        return {
            name: Anchors(
                one.metric, torch.eye(len(one.whitening)) * one.whitening.diagonal().mean()
            )
            for name, one in measure(*given).items()  # type: ignore[arg-type]
        }

    options: dict[str, object] = {}
    patches = []
    if part == "anchors":
        patches = [patch.object(anchors, "measure", flat)]
    elif part == "curvature":
        patches = [patch.object(anchors, "measure", even)]
    elif part == "past keys":
        patches = [patch.object(KeyMemory, "after", lambda memory, *given: memory)]
    elif part == "watched anchors":
        patches = [patch.object(derive, "rehearsed", lambda edits: 0)]
    elif part == "passes":
        options = {"passes": 1, "lr": 1.0}
    elif part == "small steps":
        options = {"lr": 1.0}
    elif part == "all blocks but one":
        options = {"modules": MIDDLE}
    elif part != "nothing":
        raise ValueError(part)
    for one in patches:
        one.start()
    try:
        yield options
    finally:
        for one in patches:
            one.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="what cases.py wrote, or demo")
    parser.add_argument("-n", type=int, default=400, help="edits")
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("-o", "--out", type=Path, default=Path("ablation.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    world = World(DEMO if arguments.folder == "demo" else Path(arguments.folder))
    rows = []
    for part in PARTS:
        for seed in map(int, arguments.seeds.split(",")):
            with without(part) as options:
                row = run(world, arguments.n, seed, arguments.turn_size, "anchored", options)
            rows.append({"without": part, **row})
            result = {"machine": machine(torch.device("cpu")), "rows": rows}
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("without", "seed", "efficacy", "rephrase", "locality", "mean", "passes")
    for row in rows:
        kept = row["locality"]["agreement"]
        scores = (row["efficacy"]["token_accuracy"], row["rephrase"]["token_accuracy"], kept)
        table.add_row(row["without"], str(row["seed"]), *(f"{s:.3f}" for s in scores),
                      f"{row['mean']:.3f}", f"{row['passes']:.1f}")  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
