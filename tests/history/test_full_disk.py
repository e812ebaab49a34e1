"""A disk that fills up under a run, for real: a small file system of its own."""

import ctypes
import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from ultraedit import Editor
from ultraedit.storage import open_journal, read

ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
WORDS = ["paris", "france", "jazz", "guitar", "city", "person", "born", "plays"]


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(kilobytes)`: a folder with so much room; called again, with other room."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(kilobytes):
        nonlocal mounted
        remount = 32 if mounted else 0
        options = f"size={kilobytes}k".encode()
        if libc.mount(b"none", str(folder).encode(), b"tmpfs", remount, options):
            pytest.skip(f"mounting is not allowed: {os.strerror(ctypes.get_errno())}")
        mounted = True
        return folder

    yield mount
    if mounted:
        libc.umount2(str(folder).encode(), 2)


def edit(model, facts, out):
    return subprocess.run(
        [
            sys.executable, "-m", "ultraedit", "edit", model, facts, "-o", out, "--resume",
            "--lr", "0.001", "--turn-size", "2", "--json",
        ],
        capture_output=True, text=True, env=ENV,
    )  # fmt: skip


def kilobytes(folder):
    return sum(path.stat().st_blocks for path in folder.rglob("*")) // 2


def test_a_full_disk_ends_at_a_whole_turn_and_more_room_lets_it_go_on(
    checkpoint, tmp_path, small_disk
):
    facts = tmp_path / "facts.jsonl"
    with facts.open("w") as stream:
        for number in range(80):
            prompt = f"{WORDS[number % 8]} in {WORDS[number * 3 % 7]} is"
            stream.write(json.dumps({"prompt": prompt, "target": WORDS[number * 5 % 8]}) + "\n")
    reference = tmp_path / "reference"
    done = edit(checkpoint, facts, reference)
    assert done.returncode == 0, done.stderr
    used = kilobytes(reference)
    history = kilobytes(reference / "ultraedit" / "history")
    # Room for the model and about half of its turns.
    disk = small_disk(used - history // 2)
    out = disk / "out"
    failed = edit(checkpoint, facts, out)
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "No space left" in failed.stderr or "disk is full" in failed.stderr
    with open_journal(out) as journal:
        journal.verify()
        turns = journal.head().number
    assert 0 < turns < 40
    assert read(out).version == turns
    assert Editor.load(out).turns == turns
    assert AutoModelForCausalLM.from_pretrained(out)
    again = edit(checkpoint, facts, out)
    assert again.returncode == 1, "there is no more room than before"
    assert read(out).version >= turns
    small_disk(used * 3)
    resumed = edit(checkpoint, facts, out)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["resumed_at"] >= 2 * turns
    with open_journal(out) as journal, open_journal(reference) as whole:
        assert [e.written for e in journal.entries()] == [e.written for e in whole.entries()]
