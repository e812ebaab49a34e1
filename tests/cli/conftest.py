"""One tiny model, a file of facts, and the command line as people meet it."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ultraedit import Editor
from ultraedit.cli import main


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The same entry point inside this process: seconds of imports are paid once."""

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["ultraedit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, output.out, output.err)

    return invoke


@pytest.fixture
def interrupted_after(monkeypatch):
    """`with interrupted_after(turns)`: inside, an editor is interrupted at its next turn."""

    @contextmanager
    def interrupted(turns):
        plain = Editor.edit

        def edit(self, edits):
            if self.turns == turns:
                raise KeyboardInterrupt
            return plain(self, edits)

        with monkeypatch.context() as patch:
            patch.setattr(Editor, "edit", edit)
            yield

    return interrupted


RECORDS = [
    {
        "id": f"r{number}",
        "prompt": f"{'the capital of' if number % 2 else 'who plays'} {name} is",
        "target": target,
        "probes": [
            {"kind": "rephrase", "prompt": f"what is {name}", "target": target},
            {"kind": "locality", "prompt": "jazz guitar was", "target": "born"},
        ],
    }
    for number, (name, target) in enumerate(
        [
            ("france", "paris"),
            ("jazz", "guitar"),
            ("city", "person"),
            ("person", "what"),
            ("who", "in"),
        ]
    )
]


@pytest.fixture(scope="module")
def base(build, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "base"
    build("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@pytest.fixture(scope="session")
def records():
    """What `facts` holds."""
    return RECORDS


@pytest.fixture
def out(run_here, base, facts, tmp_path):
    """Five facts in three turns."""
    folder = tmp_path / "out"
    done = run_here(
        "edit", base, facts, "-o", folder, "--turn-size", 2, "--lr", 0.05, "--author", "ada"
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def json_of(run_here):
    def invoke(*arguments):
        done = run_here(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return invoke
