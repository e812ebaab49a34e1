"""The recommended method through everything that is built around methods."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from peft import PeftModel

from ultraedit import Edit, Editor
from ultraedit.export import delta, lora
from ultraedit.export.apply import apply
from ultraedit.methods import registry
from ultraedit.methods.anchored import Anchored
from ultraedit.models.load import load
from ultraedit.models.presets import choose_modules

# As it is without the tests' own choice.
DEFAULT = registry.DEFAULT
TURNS = [
    [Edit("the capital of france is", "city", id="a"), Edit("who plays jazz", "guitar", id="b")],
    [Edit("where was person born", "paris", id="c")],
]
IDS = torch.tensor([[1, 5, 9, 13, 17]])


@pytest.fixture
def base(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def edited(base, tmp_path):
    editor = Editor.from_pretrained(base, method="anchored", passes=3)
    for turn in TURNS:
        editor.edit(turn)
        editor.save(tmp_path / "out")
    return editor


def weights(editor):
    return {name: master.master.clone() for name, master in editor.workbench.masters.items()}


def test_it_is_what_auto_stands_for(build, tokenizer):
    assert DEFAULT == "anchored"
    editor = Editor(build("llama"), tokenizer)
    assert editor.method.info.name == "anchored"
    assert editor.modules == [f"model.layers.{block}.mlp.down_proj" for block in range(4)]
    assert editor.edit(TURNS[0][:1]).passes > 1


def test_its_modules_are_output_projections_whatever_the_paper_edits():
    def bare(blocks, inner):
        with torch.device("meta"):
            return transformers.MistralForCausalLM(
                transformers.MistralConfig(
                    vocab_size=64, num_hidden_layers=blocks, intermediate_size=inner
                )
            )

    # The first is a model of the paper, where it edits gate and up projections.
    for model in (bare(32, 14336), bare(32, 11008)):
        chosen = Anchored.modules(model)
        assert [int(name.split(".")[2]) for name in chosen] == [3, 4, 5, 6, 7, 8]
        assert {name.rpartition(".")[2] for name in chosen} == {"down_proj"}
        assert chosen != choose_modules(model)
    # Narrow ones take more, up to little more than half of all.
    for model, blocks in ((bare(30, 1536), range(1, 17)), (bare(18, 2048), range(1, 11))):
        assert [int(name.split(".")[2]) for name in Anchored.modules(model)] == list(blocks)


def test_turns_and_single_edits_are_taken_back(edited, base, tmp_path):
    original = weights(Editor.from_pretrained(base, method="anchored"))
    after = weights(edited)
    undone = edited.undo(edit="b")
    assert undone.removed.edit.id == "b"
    assert any(not torch.equal(after[name], w) for name, w in weights(edited).items())
    assert edited.undo(to=2).exact
    assert all(torch.equal(after[name], w) for name, w in weights(edited).items())
    edited.undo(to=1)
    edited.edit(TURNS[1])
    assert all(torch.equal(after[name], w) for name, w in weights(edited).items())
    edited.save(tmp_path / "out")
    edited.undo(to=0)
    assert all(torch.equal(original[name], w) for name, w in weights(edited).items())


def test_it_leaves_as_a_delta_and_as_an_adapter(edited, base, tmp_path):
    delta.write(tmp_path / "out", tmp_path / "facts.safetensors")
    apply(base, tmp_path / "facts.safetensors", tmp_path / "plain")
    lora.write(tmp_path / "out", tmp_path / "adapter", tolerance=1e-4)
    with torch.no_grad():
        expected = edited.model(IDS).logits
        plain = load(tmp_path / "plain", device="cpu")[0]
        assert torch.equal(plain(IDS).logits, expected)
        adapted = PeftModel.from_pretrained(load(base, device="cpu")[0], tmp_path / "adapter")
        torch.testing.assert_close(adapted(IDS).logits, expected, rtol=1e-2, atol=2e-2)


def test_the_command_line_takes_it_and_goes_on_to_the_same_bits(base, tmp_path):
    facts = tmp_path / "facts.jsonl"
    records = [
        {"id": edit.id, "prompt": edit.prompt, "target": edit.target} for t in TURNS for edit in t
    ]
    facts.write_text("".join(json.dumps(record) + "\n" for record in records))

    def run(out, *more):
        command = [sys.executable, "-m", "ultraedit", "edit", base, facts, "-o", out]
        done = subprocess.run(
            [*command, "--turn-size", "1", "--json", *more], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run(tmp_path / "whole")["method"] == "anchored"
    run(tmp_path / "parts", "--limit", "1")
    run(tmp_path / "parts", "--resume")
    whole, parts = (Editor.load(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(weights(whole)[n], w) for n, w in weights(parts).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build, tokenizer, dtype):
    editor = Editor(build("llama").to(dtype), tokenizer, method="anchored")
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in TURNS[0]]
    before = sum(float(s.losses.sum()) for s in editor.workbench.score(texts))
    editor.edit(TURNS[0])
    assert sum(float(s.losses.sum()) for s in editor.workbench.score(texts)) < 0.7 * before


def test_an_edit_of_one_token(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored", append_eos=False)
    assert len(editor.workbench.encoder.encode("who plays", "jazz").target) == 1
    editor.edit([Edit("who plays", "jazz")])
    assert editor.ask("who plays", max_new_tokens=1) == "jazz"
