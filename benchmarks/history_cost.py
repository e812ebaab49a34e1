"""What saving after every turn costs, with its history and without, on a real model.

    python benchmarks/history_cost.py FILE -o history_cost.json

Edits SmolLM2-135M by the default method, turn after turn, with a save after each. Prints medians
of the turns after the first, which also measures the model and lays down the base.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ultraedit import Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases


def files(out: Path) -> dict[tuple[str, int, int], int]:
    """What lies in the folder, by name, place on the disk and time of the last change."""
    found = {}
    for path in out.rglob("*"):
        if path.is_file():
            status = path.stat()
            found[path.name, status.st_ino, status.st_mtime_ns] = status.st_size
    return found


def measure(model: str, file: str, turns: int, size: int, history: str) -> dict[str, Any]:
    edits = [case.edit for case in read_cases(file, limit=turns * size)]
    editor = Editor.from_pretrained(model, history=history)
    turn_seconds, save_seconds, written = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for start in range(0, len(edits), size):
            began = time.perf_counter()
            editor.edit(edits[start : start + size])
            edited = time.perf_counter()
            before = files(out)
            editor.save(out)
            save_seconds.append(time.perf_counter() - edited)
            turn_seconds.append(edited - began)
            written.append(sum(n for key, n in files(out).items() if key not in before))
        began = time.perf_counter()
        again = Editor.load(out)
        loaded = time.perf_counter() - began
        began = time.perf_counter()
        again.restore_state()
        restored = time.perf_counter() - began
    turn, save = statistics.median(turn_seconds[1:]), statistics.median(save_seconds[1:])
    return {
        "seconds of a turn": turn,
        "seconds of a save": save,
        "save / turn": save / turn,
        "bytes of the first save": written[0],
        "bytes of a save": statistics.median(written[1:]),
        "seconds of a load": loaded,
        "seconds of rebuilding the state": restored,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--turn-size", type=int, default=20)
    parser.add_argument("-o", "--out", type=Path, default=Path("history_cost.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    result = {
        history: measure(
            arguments.model, arguments.file, arguments.turns, arguments.turn_size, history
        )
        for history in ("none", "full")
    }
    text = json.dumps(result, indent=2)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
