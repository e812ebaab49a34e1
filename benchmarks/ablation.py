"""The parts of `anchored`, each left out in turn, on facts that a model knows by heart.

    python benchmarks/ablation.py WORLD -n 400 --seeds 1,2,3 -o ablation.json

FOLDER as for quality.py, whose rows these are; what was left out is in `without`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from quality import DEMO, World, run
from rich.console import Console
from rich.table import Table
from shapes import machine

from ultraedit.cli.console import quiet_libraries
from ultraedit.methods.anchored import Anchors, anchors, derive
from ultraedit.methods.anchored.anchors import Measured
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

    def even(matrix: torch.Tensor) -> torch.Tensor:
        return torch.eye(len(matrix)) * matrix.diagonal().mean()

    def no_inputs(*given: Any) -> Measured:
        found = measure(*given)
        flat = {n: Anchors(even(one.metric), one.whitening) for n, one in found.modules.items()}
        return replace(found, modules=flat)

    def no_curvature(*given: Any) -> Measured:
        found = measure(*given)
        flat = {n: Anchors(one.metric, even(one.whitening)) for n, one in found.modules.items()}
        return replace(found, modules=flat)

    options: dict[str, object] = {}
    patches = []
    if part == "anchors":
        patches = [patch.object(anchors, "measure", no_inputs)]
    elif part == "curvature":
        patches = [patch.object(anchors, "measure", no_curvature)]
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
