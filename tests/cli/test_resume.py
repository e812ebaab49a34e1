"""`edit --resume`, and going on with a folder in other ways."""

import json
import shutil

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ultraedit.storage import Layout, read_manifest


def weights(out):
    return load_file(out / read_manifest(out).edited.name)


def test_an_interrupted_run_is_resumed_to_the_same_bits(
    run_here, json_of, base, facts, out, tmp_path, interrupted_after
):
    pieces = tmp_path / "pieces"
    arguments = ["edit", base, facts, "-o", pieces, "--turn-size", 2, "--lr", 0.05]
    with interrupted_after(1):
        assert run_here(*arguments).returncode == 130
    summary = json_of(*arguments, "--resume")
    assert (summary["resumed_at"], summary["edits"], summary["turns"]) == (2, 3, 2)
    assert all(torch.equal(w, weights(out)[n]) for n, w in weights(pieces).items())
    again = json_of(*arguments, "--resume")
    assert (again["edits"], again["turns"]) == (0, 0)
    assert json_of("log", pieces)["turn"] == 3


def test_resume_after_an_undo_goes_on_from_there(run_here, json_of, base, facts, out):
    before = weights(out)
    run_here("undo", out, "--to", 1)
    summary = json_of("edit", base, facts, "-o", out, "--turn-size", 2, "--lr", 0.05, "--resume")
    assert (summary["resumed_at"], summary["edits"]) == (2, 3)
    assert all(torch.equal(w, before[n]) for n, w in weights(out).items())


def test_resume_wants_the_same_model_wherever_it_lies(
    run_here, json_of, build, tokenizer, base, facts, out, tmp_path
):
    arguments = [facts, "-o", out, "--turn-size", 2, "--resume"]
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(
        tmp_path / "moved", max_shard_size="20KB"
    )
    tokenizer.save_pretrained(tmp_path / "moved")
    assert json_of("edit", tmp_path / "moved", *arguments)["edits"] == 0
    build("llama", seed=1).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    done = run_here("edit", tmp_path / "other", *arguments)
    assert done.returncode == 2
    assert "was edited from" in done.stderr


def test_resume_begins_where_nothing_was_written(run_here, json_of, base, facts, tmp_path):
    summary = json_of("edit", base, facts, "-o", tmp_path / "new", "--resume", "--lr", 0.05)
    assert summary["resumed_at"] == 0
    assert summary["edits"] == 5


def test_without_history_resume_still_works(run_here, json_of, base, facts, out, tmp_path):
    arguments = [
        "edit", base, facts, "-o", tmp_path / "bare", "--no-journal", "--turn-size", 2,
        "--lr", 0.05,
    ]  # fmt: skip
    json_of(*arguments, "--limit", 2)
    assert json_of(*arguments, "--resume")["resumed_at"] == 2
    assert all(torch.equal(w, weights(out)[n]) for n, w in weights(tmp_path / "bare").items())
    assert json_of("log", tmp_path / "bare")["edits"] == 5
    done = run_here("undo", tmp_path / "bare", "--to", 1)
    assert done.returncode == 2
    assert "cannot be rebuilt" in done.stderr
    assert json_of("undo", tmp_path / "bare", "--to", 0)["exact"] is True


def test_a_shard_that_was_not_published_before_a_crash_is_published(run_here, base, facts, out):
    shard, layout = out / "model-edited.safetensors", Layout(out)
    right = shard.read_bytes()
    staged = layout.staged(read_manifest(out).edited)
    for arguments in (
        ["edit", base, facts, "-o", out, "--turn-size", 2, "--resume"],
        ["inspect", out],
        ["export", out, "--format", "checkpoint", "-o", out.with_name("plain")],
    ):
        index = layout.index.read_text()
        staged.write_bytes(right)
        shard.write_bytes(b"the version before")
        assert run_here(*arguments).returncode == 0
        assert shard.read_bytes() == right
        assert not staged.exists()
        assert layout.index.read_text() == index


def test_resume_refuses_what_it_would_write_twice(run_here, base, facts, out, records, tmp_path):
    shorter = run_here("edit", base, facts, "-o", out, "--turn-size", 2, "--limit", 4, "--resume")
    assert shorter.returncode == 2
    assert "does not begin with the 5 edits" in " ".join(shorter.stderr.split())
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"prompt": "jazz is", "target": "city"}))
    assert run_here("edit", out, more, "-o", out, "--turn-size", 2).returncode == 0
    again = run_here("edit", base, facts, "-o", out, "--turn-size", 2, "--resume", "--json")
    assert json.loads(again.stdout)["edits"] == 0


def test_resume_without_the_base_and_from_elsewhere(run_here, json_of, base, facts, tmp_path):
    shutil.copytree(base, tmp_path / "moved")
    arguments = [facts, "-o", tmp_path / "out", "--turn-size", 2, "--lr", 0.05]
    json_of("edit", tmp_path / "moved", *arguments, "--limit", 2)
    shutil.rmtree(tmp_path / "moved")
    assert json_of("edit", tmp_path / "moved", *arguments, "--resume")["edits"] == 3
    assert run_here("edit", tmp_path / "gone", *arguments, "--resume").returncode == 2


def test_a_fork_is_no_resumption(json_of, out, facts, tmp_path):
    summary = json_of("edit", out, facts, "-o", tmp_path / "fork", "--turn-size", 2, "--resume")
    assert summary["edits"] == 5
    assert json_of("log", tmp_path / "fork")["turn"] == 6


def test_another_batch_size_is_a_warning(run_here, base, facts, out):
    done = run_here(
        "edit", base, facts, "-o", out, "--turn-size", 2, "--resume", "--batch-tokens", 64
    )
    assert done.returncode == 0
    assert "warning" in done.stderr


def test_what_cannot_be_gone_on_with_is_said_before_the_first_turn(run_here, facts, out):
    for options, words in (
        (["--dtype", "bfloat16"], "edited in float32"),
        (["--author", "\udcff"], "author"),
        (["--no-journal", "--history", "full"], "contradicts --history full"),
    ):
        done = run_here("edit", out, facts, "-o", out, *options)
        assert done.returncode == 2, options
        assert words in done.stderr
    assert run_here("undo", out, "--to", 1, "--author", "\udcff").returncode == 2
