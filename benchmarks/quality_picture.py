"""How much of the first turn is still known after every later turn, as a picture.

    python benchmarks/quality_picture.py quality.json --edits 1000 -o docs/retention.svg

Reads what quality.py wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--edits", type=int, required=True)
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, default=Path("retention.svg"))
    arguments = parser.parse_args()
    rows = json.loads(arguments.rows.read_text())["rows"]
    # Fixed ids: the same rows give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "retention"
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for row in rows:
        row["method"] += f", eta {row['options']['lr']}" if "lr" in row["options"] else ""
    for method in dict.fromkeys(row["method"] for row in rows):
        curves = [
            row["first turn kept"]
            for row in rows
            if row["method"] == method
            and row["edits"] == arguments.edits
            and row["turn size"] == arguments.turn_size
        ]
        if curves:
            mean = [sum(points) / len(points) for points in zip(*curves, strict=True)]
            axes.plot(range(1, len(mean) + 1), mean, marker="o", markersize=3, label=method)
    axes.set(xlabel=f"turns of {arguments.turn_size} edits", ylim=(0, 1.03),
             ylabel="of the first turn's edits\nstill answered, exact match")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
