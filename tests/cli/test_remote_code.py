"""Models with code of their own: never asked about, run where that was said, and only that code."""

import json
import sys

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from ultraedit import Editor
from ultraedit.errors import InputError

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(base, tmp_path, monkeypatch):
    """A model of a class that comes with it."""
    monkeypatch.setenv("ULTRAEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    folder = tmp_path / "own"
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-llama", "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    return folder


def edit_of(run_here, own, facts, out, *more):
    return run_here(
        "edit", own, facts, "-o", out, "--method", "ultraedit", "--lr", 0.05, "--modules",
        "model.layers.1.mlp.down_proj", *more,
    )  # fmt: skip


def test_without_the_word_it_is_refused_in_one_line(run_here, own, facts, tmp_path):
    for command in (("inspect", own), ("evaluate", own, facts)):
        done = run_here(*command)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "only --trust-remote-code runs" in done.stderr
    done = edit_of(run_here, own, facts, tmp_path / "out")
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    with pytest.raises(InputError, match="trust-remote-code"):
        Editor.from_pretrained(own)


def test_told_once_it_holds_for_everything_of_the_edited_model(run_here, own, facts, tmp_path):
    out = tmp_path / "out"
    assert edit_of(run_here, own, facts, out, "--trust-remote-code").returncode == 0
    assert (out / "own.py").read_text() == CODE
    for command in (
        ("evaluate", out, facts), ("inspect", out), ("log", out),
        ("export", out, "--format", "checkpoint", "-o", tmp_path / "plain"),
        ("export", out, "--format", "delta", "-o", tmp_path / "d.safetensors"),
        ("apply", own, tmp_path / "d.safetensors", "-o", tmp_path / "applied"),
        ("undo", out, "--edit", "r1"), ("undo", out, "--to", 0),
    ):  # fmt: skip
        done = run_here(*command)
        assert done.returncode == 0, (command, done.stderr)
    for folder in (out, tmp_path / "plain", tmp_path / "applied"):
        loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        assert type(loaded).__name__ == "OwnModel"


def test_other_code_is_not_run(run_here, own, facts, tmp_path):
    out, ran = tmp_path / "out", tmp_path / "ran"
    assert edit_of(run_here, own, facts, out, "--trust-remote-code").returncode == 0
    (out / "own.py").write_text(f"open({str(ran)!r}, 'w')\n{CODE}")
    done = run_here("evaluate", out, facts)
    assert done.returncode == 2
    assert "trust-remote-code" in done.stderr
    assert not ran.exists()
    assert run_here("evaluate", out, facts, "--trust-remote-code").returncode == 0
    assert ran.exists()


def test_without_a_cache_nothing_is_remembered(run_here, own, facts, tmp_path, monkeypatch):
    monkeypatch.setenv("ULTRAEDIT_CACHE", "")
    editor = Editor.from_pretrained(own, trust_remote_code=True, method="ultraedit", lr=0.05)
    editor.save(tmp_path / "out")
    with pytest.raises(InputError, match="trust-remote-code"):
        Editor.load(tmp_path / "out")
    assert Editor.load(tmp_path / "out", trust_remote_code=True).model is not None
    assert AutoConfig.from_pretrained(own, trust_remote_code=True).model_type == "own-llama"
    assert not [name for name in sys.modules if name == "own"]
