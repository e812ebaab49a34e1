"""Kill an editing process over and over, and see that nothing is ever lost or half written.

    python benchmarks/kills.py --kills 1000 --out kills.json

Every trial forks a process that runs `ultraedit edit ... --resume` and kills it (SIGKILL): at
a random time, at a random one of its writes, or inside the journal's commit. After each, the
folder must open with plain transformers and with ultraedit, at a turn that the uninterrupted
run also came through, bit for bit. Runs that come to their end must be that run's copy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads do not survive a fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import AutoModelForCausalLM

from ultraedit import storage
from ultraedit.cli import main as command_line
from ultraedit.cli.console import quiet_libraries
from ultraedit.demo import CASES_FILE, MODEL_FOLDER
from ultraedit.history.rebuild import current, rebuild, rebuild_state
from ultraedit.storage import atomic
from ultraedit.storage.bits import same_bits
from ultraedit.storage.journal import Journal

HOW = ("timer", "write", "commit")
WRITES_OF_A_TURN = 12
ERRORS, TURN = "errors.txt", "turn.txt"


def edit(model: Path, facts: Path, out: Path, options: list[str]) -> None:
    """Run the command in this process and end it."""
    sys.argv = [
        "ultraedit", "edit", str(model), str(facts), "-o", str(out), "--resume",
        *options, "--json",
    ]  # fmt: skip
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # What the last one printed says why it failed.
    os.dup2(os.open(out.parent / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    try:
        command_line()
    except SystemExit as ended:
        os._exit(ended.code or 0)
    os._exit(70)


def die_at_write(number: int) -> None:
    """Arrange for the process to die at its `number`-th change of the disk."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    atomic.Measured.write = counted(atomic.Measured.write)
    for name in ("replace", "fsync", "link", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))


def die_in_commit(number: int, delay: float) -> None:
    """Arrange for the process to die shortly after it begins its `number`-th commit."""
    count = 0
    append = Journal.append

    def call(self, *args):
        nonlocal count
        count += 1
        if count == number:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return append(self, *args)

    Journal.append = call


class Trial:
    """One model, one file of facts, and the uninterrupted run to compare with."""

    def __init__(self, model: Path, facts: Path, folder: Path, options: list[str]) -> None:
        self.arguments = (model, facts)
        self.options = options
        self.folder = folder
        began = time.monotonic()
        code = self.run(folder / "reference")
        if code:
            raise RuntimeError(f"the uninterrupted run ended with {code}")
        self.seconds = time.monotonic() - began
        self.reference = checksums(folder / "reference")

    def run(self, out: Path, prepare=lambda: None, kill_after: float | None = None) -> int:
        """Fork, edit, perhaps kill; the exit status, negative for a signal."""

        def child() -> None:
            prepare()
            edit(*self.arguments, out, self.options)

        return forked(child, kill_after)

    def check(self, out: Path) -> int:
        """The turn the folder is at; raises if it is not whole."""
        assert forked(lambda: self.see(out)) == 0, "the folder is not whole; see above"
        return int((self.folder / TURN).read_text())

    def see(self, out: Path) -> None:
        """`check` in the process that calls it; the turn is written to a file."""
        number = self.turn_of(out) if storage.is_edited_model(out) else 0
        (self.folder / TURN).write_text(str(number))

    def turn_of(self, out: Path) -> int:
        """The turn of a folder that holds an edited model; raises if it is not whole."""
        served = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
        with storage.open_journal(out) as journal:
            journal.verify()
            number = journal.head().number
        found = checksums(out)
        expected = {n: self.reference[n] for n in range(1, number + 1)}
        assert found == expected, f"{found} instead of {expected}"
        snapshot = current(out)
        if number:
            # It names its constants by their content.
            state, _ = rebuild_state(self.folder / "reference", number)
            assert same(snapshot.state, state), "the state of another turn"
        assert snapshot.version == number
        edited = {
            n: weights(self.folder / "reference", n)
            for n in (number, number - 1)
            if n in self.reference
        }
        assert same(snapshot.served, edited[number]), "weights of another turn"
        # Between the commit and the index a plain loader may be one turn behind.
        loaded = {name: served[name] for name in snapshot.served}
        assert any(same(loaded, weights) for weights in edited.values()), "half a version"
        storage.settle_if_free(out)
        settled = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
        assert same({name: settled[name] for name in snapshot.served}, edited[number])
        return number


def forked(function, kill_after: float | None = None) -> int:
    """Run that in a child of its own; its exit status, negative for a signal.

    All that computes runs in such children: torch's thread pools do not survive a fork, so
    this process must never have used them.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checksums(out: Path) -> dict[int, dict[str, str]]:
    """Of every version that was written, by turn."""
    with storage.open_journal(out) as journal:
        return {e.number: dict(e.written or {}) for e in journal.entries() if e.kind == "turn"}


def weights(out: Path, number: int) -> dict[str, torch.Tensor]:
    return dict(rebuild(out, number).served)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        same_bits(first[name], second[name]) for name in first
    )


def campaign(trial: Trial, kills: int, seed: int) -> dict[str, object]:
    """Kill that many times, resuming in between and beginning anew after every whole run."""
    rng = random.Random(seed)
    turns = max(trial.reference)
    killed: Counter[str] = Counter()
    at: list[int] = []
    runs = done = 0
    out = trial.folder / "out"
    while sum(killed.values()) < kills:
        how = HOW[sum(killed.values()) % len(HOW)]
        left = max(turns - done, 1)
        number, commit = rng.randint(1, WRITES_OF_A_TURN * left), rng.randint(1, left)
        delay = rng.uniform(0, 0.002)
        if how == "timer":
            code = trial.run(out, kill_after=rng.uniform(0, trial.seconds))
        elif how == "write":
            code = trial.run(out, lambda number=number: die_at_write(number))
        else:
            code = trial.run(out, lambda commit=commit, delay=delay: die_in_commit(commit, delay))
        assert code in (0, -signal.SIGKILL), (code, (trial.folder / ERRORS).read_text())
        done = trial.check(out)
        if code == 0:
            # Outran its death; a whole run must be the uninterrupted one, bit for bit.
            assert done == turns
            assert checksums(out) == trial.reference
            runs, done = runs + 1, 0
            shutil.rmtree(out)
        else:
            killed[how] += 1
            at.append(done)
    assert trial.run(out) == 0
    assert trial.check(out) == turns
    return {
        "kills": dict(killed),
        "whole_runs": runs + 1,
        "turns_of_a_run": turns,
        "kills_by_turns_done": dict(sorted(Counter(at).items())),
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="a local model")
    parser.add_argument("--facts", type=Path, default=CASES_FILE)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--turn-size", type=int, default=4)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(folder) / "facts.jsonl"
        lines = arguments.facts.read_text().splitlines()[: arguments.limit]
        facts.write_text("\n".join(lines))
        options = ["--method", arguments.method, "--turn-size", str(arguments.turn_size)]
        for setting in arguments.set:
            name, value = setting.split("=", 1)
            options += ["--lr", value] if name == "lr" else ["--set", setting]
        trial = Trial(arguments.model, facts, Path(folder), options)
        result = campaign(trial, arguments.kills, arguments.seed)
    text = json.dumps(result, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
