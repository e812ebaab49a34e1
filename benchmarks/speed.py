"""A turn against the published procedure, and against one plain forward pass over its texts.

    python benchmarks/speed.py -o speed.json
    python benchmarks/speed.py -o speed.json --blocks 32 --device cuda
    python benchmarks/speed.py -o speed.json --shapes tiny --dtype float32,bfloat16

Models of random weights with the shapes of Mistral-7B-v0.3 and Llama-3-8B and the modules that
the paper edits there, at like places where there are fewer blocks. Both sides edit the same
model, in turns, and start from the same weights; every round has fresh texts of random tokens,
about 22 each with 4 or 5 to learn. Ours is the whole of `Editor.edit`, text in; the published
procedure (published.py) is given tokens. Every figure is a median, after a warm-up, which fills
our normalisers; off the GPU the published one leaves its solve out. `times` holds what the medians
are of, in which another load on the machine shows. Peak bytes are beyond what was held when the
turn began, and standing bytes what an editor holds between turns.

The floor is one forward pass without gradients in our batches, the head on answer rows; a second
figure has the head at every position. A further pass is a capture and a scoring of a turn that
was seen before. With fewer than 32 blocks, lines flagged `worked_out` add what the missing ones
would cost, from the block costs measured beside them. With frozen = more blocks below the first
edited one, top = more blocks from it on, and modules = more edited modules:

    floor     + (frozen + top) forward
    ours      + frozen forward + top (2 forward + backward) + modules rest
    unchecked + frozen forward + top (forward + backward) + modules rest
    further   + top (2 forward + backward)
    published + frozen forward' + top (forward' + backward') + modules (gradient + steps)

forward is a block's, from forward passes at two depths, and backward from captures at two
depths; the primed ones are the same in the published micro-batches. Where one of them is lost in
noise, nothing is worked out. rest is what our turn takes beyond its passes, a module; gradient is
a weight gradient's product, over all micro-batches, and steps the published features, solve and
apply, a module.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from published import PARTS
from shapes import FULL, SHAPES, machine, named
from sides import LR, MORE, TURN, Rig, Times

SINGLES = 5
WHAT = {TURN: f"turn of {TURN}", 1: "single edit"}
BLOCK_COSTS = ("forward", "backward", "forward'", "backward'")
DERIVATION = __doc__.split("With fewer than 32 blocks, ")[1].strip()


def worked_out(rig: Rig, medians: dict[str, float]) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians at full depth, and what they were worked out from; see the module's text."""
    get = defaultdict(float, medians)
    apart = rig.blocks - rig.shallow
    forward = (get["floor"] - get["floor shallow"]) / apart
    both = (get["capture deep"] - get["capture here"]) / MORE
    theirs = (get["published floor here"] - get["published floor shallow"]) / apart
    theirs_both = (get["published capture deep"] - get["published capture here"]) / MORE
    rest = max(0.0, get["ours"] - get["capture"] - get["score"]) / rig.modules
    steps = (get["features"] + get["solve"] + get["apply"]) / rig.modules
    frozen, top, modules = rig.frozen, rig.top, rig.more_modules
    again = top * theirs_both + modules * (get["gradient"] + steps)
    more = {
        "floor": (frozen + top) * forward,
        "everywhere": (frozen + top) * forward,
        "ours": frozen * forward + top * (forward + both) + modules * rest,
        "unchecked": frozen * forward + top * both + modules * rest,
        "further": top * (forward + both),
        "published": frozen * theirs + again,
    }
    parts = {"forward": forward, "rest": rest}
    if top:
        parts["backward"] = both - forward
    if "published" in medians:
        parts |= {"forward'": theirs, "steps": steps}
        if top:
            parts["backward'"] = theirs_both - theirs
        if modules:
            parts["gradient"] = get["gradient"]
    derivation = {
        "more": {"frozen": frozen, "top": top, "modules": modules},
        "seconds": parts,
        "text": DERIVATION,
    }
    return {what: medians[what] + more[what] for what in more if what in medians}, derivation


def lines_of(count: int, medians: dict[str, float]) -> list[dict[str, Any]]:
    """Medians as lines of `seconds` and `ratios`."""
    floor = {"floor": medians["floor"], "floor, all positions": medians["everywhere"]}
    sides = {side: medians[side] for side in ("published", "ours", "unchecked") if side in medians}
    ratios = {f"{side} / floor": value / medians["floor"] for side, value in sides.items()}
    if "published" in sides:
        for side in sides.keys() - {"published"}:
            ratios[f"published / {side}"] = sides["published"] / sides[side]
    lines = [{"what": WHAT[count], "seconds": sides | floor, "ratios": ratios}]
    if count == TURN:
        further = medians["further"]
        lines.append(
            {
                "what": "further pass",
                "seconds": {"ours": further} | floor,
                "ratios": {"ours / floor": further / medians["floor"]},
            }
        )
    return lines


def measure(rig: Rig, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    print("warming up", file=sys.stderr)
    rig.warm_up()
    turns = arguments.repeats if arguments.turns is None else arguments.turns
    rounds = {
        TURN: (arguments.repeats, turns),
        1: (max(SINGLES, arguments.repeats), arguments.published_repeats),
    }
    for count, (repeats, published) in rounds.items():
        times: Times = defaultdict(list)
        for number in range(max(repeats, published)):
            print(f"{WHAT[count]}, round {number + 1}", file=sys.stderr)
            rig.round(count, 1000 * count + number, times, number < published)
        medians = {what: statistics.median(values) for what, values in times.items()}
        about = {"blocks": rig.blocks, "worked_out": False}
        measured = [about | line for line in lines_of(count, medians)]
        measured[0] |= {
            "published parts": {part: medians[part] for part in PARTS if part in medians},
            "times": times,
            "peak bytes": {
                side: max((peak for peak in peaks if peak is not None), default=None)
                for side, peaks in rig.peaks[count].items()
            },
            "standing bytes": {"ours": rig.standing},
            "load average": os.getloadavg()[0],
        }
        yield from measured
        if rig.blocks < FULL:
            full, derivation = worked_out(rig, medians)
            costs = derivation["seconds"]
            lost = [name for name in BLOCK_COSTS if costs.get(name, 1.0) <= 0]
            if lost:
                print(f"lost in noise: {', '.join(lost)}; nothing worked out", file=sys.stderr)
                continue
            about = {"blocks": FULL, "worked_out": True, "derivation": derivation}
            yield from (about | line for line in lines_of(count, full))


def show(lines: Sequence[dict[str, Any]]) -> None:
    columns = ("published", "ours", "unchecked", "floor", "floor, all positions")
    ratios = ("published / ours", "ours / floor")
    head = f"{'shape':13}{'dtype':9}{'blocks':>7}  {'':13}"
    print(head + "".join(f"{title:>22}" for title in (*columns, *ratios)))
    for line in sorted(lines, key=lambda line: line["worked_out"]):
        cells = [f"{line['seconds'][c]:.4f} s" if c in line["seconds"] else "" for c in columns]
        cells += [f"{line['ratios'][r]:.2f}" if r in line["ratios"] else "" for r in ratios]
        mark = "*" if line["worked_out"] else " "
        start = f"{line['shape']:13}{line['dtype']:9}{line['blocks']:>6}{mark}  {line['what']:13}"
        print(start + "".join(f"{cell:>22}" for cell in cells))
    if any(line["worked_out"] for line in lines):
        print("* worked out from measured parts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="mistral,llama", help=f"of {', '.join(SHAPES)}, tiny")
    parser.add_argument("--blocks", type=int, default=6, help=f"6 to {FULL}")
    parser.add_argument("--dtype", default="bfloat16", help="one or more, separated by commas")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, and our turns")
    parser.add_argument("--turns", type=int, help="published turns; by default as --repeats")
    parser.add_argument("--published-repeats", type=int, default=1, help="published single edits")
    parser.add_argument("-o", "--out", type=Path, default=Path("speed.json"))
    arguments = parser.parse_args()
    if not 6 <= arguments.blocks <= FULL:
        parser.error(f"--blocks is 6 to {FULL}")
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if arguments.device == "auto" else arguments.device)
    result: dict[str, Any] = {"machine": machine(device), "lr": LR, "lines": []}
    for name in named(arguments.shapes):
        for dtype in arguments.dtype.split(","):
            with tempfile.TemporaryDirectory() as folder:
                kind = getattr(torch, dtype)
                rig = Rig(SHAPES[name], arguments.blocks, kind, device, Path(folder))
                about = {"shape": name, "dtype": dtype, "device": result["machine"]["device"]}
                for line in measure(rig, arguments):
                    result["lines"].append(about | line)
                    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
            del rig
            gc.collect()
    show(result["lines"])


if __name__ == "__main__":
    main()
