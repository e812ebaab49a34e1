"""The commands as functions of their arguments: what they print and what they refuse."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from ultraedit.cli.apply import apply
from ultraedit.cli.export import export
from ultraedit.errors import InputError


@pytest.fixture
def run():
    app = typer.Typer()
    app.command("export")(export)
    app.command("apply")(apply)

    def invoke(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return invoke


def test_each_format_prints_one_object_or_a_few_lines(edit_model, tmp_path, run, assert_serves):
    edited = edit_model("gpt2", torch.bfloat16)
    plain = json.loads(
        run("export", edited.out, "--format", "checkpoint", "-o", tmp_path / "plain", "--json")
    )
    assert (plain["format"], plain["turns"], plain["edits"]) == ("checkpoint", 2, 3)
    assert len(plain["files"]) == len(list((tmp_path / "plain").glob("*.safetensors")))
    facts = json.loads(
        run("export", edited.out, "--format", "delta", "-o", tmp_path / "facts", "--json")
    )
    assert facts["bytes"] == (tmp_path / "facts").stat().st_size
    assert facts["base"] == str(edited.base)
    applied = json.loads(
        run("apply", edited.base, tmp_path / "facts", "-o", tmp_path / "applied", "--json")
    )
    assert applied["edits"] == 3
    for folder in ("plain", "applied"):
        assert_serves(tmp_path / folder, edited.served)
    adapter = json.loads(
        run(
            "export", edited.out, "--format", "lora", "-o", tmp_path / "lora", "--rank", 3, "--json"
        )
    )
    assert adapter["rank"] == 3
    assert [module["name"] for module in adapter["modules"]] == edited.editor.modules
    for number, arguments in enumerate(
        (
            ("export", edited.out, "--format", "checkpoint"),
            ("export", edited.out, "--format", "delta"),
            ("export", edited.out, "--format", "lora", "--tolerance", 0.2),
            ("apply", edited.base, tmp_path / "facts"),
        )
    ):
        said = run(*arguments, "-o", tmp_path / f"p{number}")
        assert (tmp_path / f"p{number}").exists()
        assert f"p{number}" in said.replace("\n", "")


def test_options_that_do_not_belong_together_are_refused(edit_model, tmp_path, run):
    edited = edit_model()
    for options, said in (
        (["--format", "onnx"], "there is checkpoint, delta, lora, gguf"),
        (["--format", "delta", "--rank", 3], "belong to adapters"),
        (["--format", "checkpoint", "--tolerance", 0.1], "belong to adapters"),
        (["--format", "lora", "--tolerance", 0.1, "--rank", 3], "exclude each other"),
        (["--format", "lora", "--rank", 0], "at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            run("export", edited.out, *options, "-o", tmp_path / "target")
        assert not (tmp_path / "target").exists()
