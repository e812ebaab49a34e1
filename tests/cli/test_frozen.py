"""`edit --frozen`: as people ask for it, go on with it, and get it wrong."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ultraedit.storage import read_manifest


def weights(out):
    return load_file(out / read_manifest(out).edited.name)


@pytest.mark.parametrize("place", ["disk", "int8", "int4"])
def test_an_interrupted_run_is_resumed_to_the_same_bits(
    run_here, json_of, base, facts, tmp_path, interrupted_after, place
):
    pytest.importorskip({"int8": "torchao", "int4": "bitsandbytes"}.get(place, "accelerate"))
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    arguments = ["edit", base, facts, "--turn-size", 2, "--lr", 0.05]
    assert json_of(*arguments, "-o", whole, "--frozen", place)["edits"] == 5
    with interrupted_after(1):
        assert run_here(*arguments, "-o", pieces, "--frozen", place).returncode == 130
    # What was chosen is remembered, and may be said again.
    other = ["--frozen", "resident"]
    if place == "disk":
        assert json_of(*arguments, "-o", pieces, "--resume", *other, "--dry-run")["edits"] == 3
    else:
        done = run_here(*arguments, "-o", pieces, "--resume", *other)
        assert done.returncode == 2
        assert f"edited with frozen='{place}'" in done.stderr
    assert json_of(*arguments, "-o", pieces, "--resume")["edits"] == 3
    assert json_of(*arguments, "-o", pieces, "--resume", "--frozen", place)["edits"] == 0
    assert all(torch.equal(w, weights(whole)[n]) for n, w in weights(pieces).items())
    for command in (
        ["evaluate", pieces, facts],
        ["diff", f"{pieces}@1", pieces],
        ["check", pieces, "--probes", facts, "--min-agreement", 0],
        ["undo", pieces, "--to", 1],
    ):
        assert run_here(*command).returncode == 0
    exported = tmp_path / "exported"
    assert run_here("export", whole, "--format", "checkpoint", "-o", exported).returncode == 0
    for folder in (whole, exported):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert {(type(p), p.dtype) for p in model.parameters()} == {
            (torch.nn.Parameter, torch.float32)
        }
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frozen", "int2"], "frozen is one of resident, int8, int4, cpu, disk, not 'int2'"),
        (["--frozen", "disk", "--device-map", "auto"], "exclude each other"),
    ],
)
def test_a_wrong_choice_is_one_line_and_exit_code_2(
    run_here, base, facts, tmp_path, options, words
):
    done = run_here("edit", base, facts, "-o", tmp_path / "out", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_libraries_keep_quiet(base, facts):
    pytest.importorskip("torchao")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ultraedit",
            "edit",
            base,
            facts,
            "--method",
            "ultraedit",
            "--frozen",
            "int8",
            "--json",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr == ""
