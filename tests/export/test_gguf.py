import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from tiny_gguf import write_tiny
from ultraedit import Edit, Editor, InputError
from ultraedit.cli import main
from ultraedit.export import gguf, lora
from ultraedit.export.held import HeldEdits

EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris", id="b"),
    Edit("where in city", "born", id="c"),
]


@pytest.fixture
def base(tokenizer, tmp_path):
    return write_tiny(tmp_path / "base.gguf", tokenizer)


@pytest.fixture
def editor(base):
    editor = Editor.from_pretrained(base, method="ultraedit", lr=0.05, append_eos=False)
    editor.edit(EDITS)
    return editor


@pytest.fixture
def out(editor, tmp_path):
    editor.save(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def run(monkeypatch, capsys):
    def invoke(*arguments):
        monkeypatch.setattr("sys.argv", ["ultraedit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code or 0, output.out, output.err

    return invoke


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "same"])
def test_the_file_holds_the_edited_weights(editor, out, base, tmp_path, kind):
    written = gguf.write(out, tmp_path / "new.gguf", kind=kind)
    assert written.base == base
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "new.gguf").tensors}
    allowed = {"f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.01, "same": 0.2}[kind]
    assert len(written.kinds) == len(editor.modules) > 0
    weights = dict(written.weights())
    for module, master in editor.workbench.masters.items():
        name = gguf.tensor_names(_Named(editor.modules), "llama")[module]
        held = tensors[name]
        assert held.tensor_type.name == ("Q4_1" if kind == "same" else kind.upper())
        found = torch.from_numpy(dequantize(held.data, held.tensor_type).copy())
        assert torch.equal(found, weights[module])
        off = (found - master.master).norm() / master.master.norm()
        assert off <= allowed
    note = json.loads(GGUFReader(tmp_path / "new.gguf").fields[gguf.KEY].contents())
    assert (note["edits"], note["method"]) == (3, "ultraedit")


class _Named:
    def __init__(self, names):
        self.names = names


def test_what_was_written_is_a_model_again(editor, out, tmp_path):
    gguf.write(out, tmp_path / "new.gguf", kind="f32")
    again = Editor.from_pretrained(tmp_path / "new.gguf", method="ultraedit")
    for edit in EDITS:
        assert again.ask(edit.prompt, 3) == editor.ask(edit.prompt, 3)


def test_an_undo_is_another_export(editor, out, tmp_path):
    before = dict(gguf.write(out, tmp_path / "edited.gguf", kind="f32").weights())
    editor.undo(to=0)
    for module, weight in gguf.write(out, tmp_path / "undone.gguf", kind="f32").weights():
        assert torch.equal(weight, editor.workbench.masters[module].original.float())
        assert not torch.equal(weight, before[module])


def test_another_base_is_refused(out, base, tokenizer, tmp_path):
    with pytest.raises(InputError, match="--type is one of"):
        gguf.write(out, tmp_path / "new.gguf", kind="q3")
    other = write_tiny(tmp_path / "other.gguf", tokenizer, seed=1)
    with pytest.raises(InputError, match="its content differs"):
        gguf.write(out, tmp_path / "new.gguf", base=other)
    moved = tmp_path / "moved.gguf"
    base.rename(moved)
    with pytest.raises(InputError, match="--base"):
        gguf.write(out, tmp_path / "new.gguf")
    assert gguf.write(out, tmp_path / "new.gguf", base=moved).base == moved
    with pytest.raises(InputError, match="there already"):
        gguf.write(out, tmp_path / "new.gguf", base=moved)


def test_of_a_model_from_elsewhere_there_is_no_file_but_an_adapter(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    editor = Editor.from_pretrained(tmp_path / "base", method="ultraedit", lr=0.05)
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    with pytest.raises(InputError, match="gguf-lora"):
        gguf.write(tmp_path / "out", tmp_path / "new.gguf")
    written = lora.write(tmp_path / "out", tmp_path / "a.gguf", rank=8, form="gguf-lora")
    assert written.rank == 8
    reader = GGUFReader(tmp_path / "a.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.lora.alpha"] == 8.0
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 2 * len(editor.modules)
    for module in editor.modules:
        block = module.split(".")[2]
        a, b = (tensors[f"blk.{block}.ffn_down.weight.lora_{end}"] for end in "ab")
        target = editor.workbench.targets[module]
        assert list(a.shape) == [target.d, 8]
        assert list(b.shape) == [8, target.e]


def test_the_adapter_is_that_of_peft(out, editor, tmp_path):
    from safetensors.torch import load_file

    lora.write(out, tmp_path / "peft", rank=6)
    lora.write(out, tmp_path / "a.gguf", rank=6, form="gguf-lora")
    peft = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    for module in editor.modules:
        block = module.split(".")[2]
        for ours, theirs in (("a", "A"), ("b", "B")):
            held = tensors[f"blk.{block}.ffn_down.weight.lora_{ours}"]
            wanted = peft[f"base_model.model.{module}.lora_{theirs}.weight"]
            assert np.array_equal(held.data, wanted.numpy())


def test_an_architecture_without_names_is_refused(build, tokenizer, tmp_path):
    build("opt").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    editor = Editor.from_pretrained(tmp_path / "base", method="ultraedit", lr=0.05)
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    with pytest.raises(InputError, match="no architecture opt"):
        lora.write(tmp_path / "out", tmp_path / "a.gguf", rank=4, form="gguf-lora")
    assert not (tmp_path / "a.gguf").exists()


def test_the_smallest_rank_that_is_accepted_is_taken(editor, out, tmp_path):
    masters = {name: one.master for name, one in editor.workbench.masters.items()}
    originals = {name: one.original.float() for name, one in editor.workbench.masters.items()}

    def missed(weights):
        return max(
            float((w - masters[n]).norm() / (originals[n] - masters[n]).norm()) for n, w in weights
        )

    tried = []

    def keeps(weights):
        tried.append(missed(weights))
        return tried[-1] <= 0.3

    written = lora.write(out, tmp_path / "a.gguf", keeps=keeps, form="gguf-lora")
    most = lora.write(out, tmp_path / "most", rank=10_000).rank
    errors = [
        max(one.error for one in lora.write(out, tmp_path / f"r{rank}", rank=rank).modules)
        for rank in range(1, most + 1)
    ]
    assert written.rank == 1 + next(n for n, error in enumerate(errors) if error <= 0.3)
    assert 1 < written.rank < most
    assert tried[0] == pytest.approx(errors[-1], abs=1e-3)
    with pytest.raises(InputError, match="no rank keeps"):
        lora.write(out, tmp_path / "b.gguf", keeps=lambda weights: False, form="gguf-lora")
    with pytest.raises(InputError, match="exclude each other"):
        lora.write(out, tmp_path / "b.gguf", rank=3, keeps=keeps)


def test_edits_are_asked_with_the_weights_that_are_given(editor, out):
    held = HeldEdits(out)
    scored = editor.workbench.score(
        [editor.workbench.encoder.encode(one.prompt, one.target) for one in EDITS]
    )
    learned = sum(bool(one.correct.all()) for one in scored)
    assert (held.asked, held.learned, held.holding) == (3, learned, learned)
    assert learned >= 1
    masters = {name: one.master for name, one in editor.workbench.masters.items()}
    assert held.try_weights((name, 0 * one) for name, one in masters.items()) < learned
    keeps = held.keeps(1.0)
    assert keeps(masters.items())
    assert not keeps((name, 0 * one) for name, one in masters.items())
    assert held.holding == learned, "of the weights that were accepted"


def test_the_command_asks_the_edits_with_what_it_wrote(run, out, base, tmp_path):
    code, said, _ = run(
        "export", out, "--format", "gguf", "--type", "f32", "-o", tmp_path / "new.gguf", "--json"
    )
    assert code == 0
    result = json.loads(said)
    assert result["held"]["asked"] == 3
    assert result["held"]["holding"] == result["held"]["learned"] >= 1
    assert result["others_identical"]
    code, said, _ = run("export", out, "--format", "gguf", "-o", tmp_path / "b.gguf")
    assert "byte for byte" in " ".join(said.split())
    assert "learned edits hold" in said


def test_the_conversion_is_announced_once(run, tokenizer, tmp_path):
    file = write_tiny(tmp_path / "new.gguf", tokenizer, seed=4)
    _, _, first = run("inspect", file)
    assert f"converting {file}, once" in first
    _, _, second = run("inspect", file)
    assert "converting" not in second


def test_a_folder_for_ollama(run, out, base, tmp_path):
    code, _, said = run("export", out, "--format", "ollama", "-o", tmp_path / "one")
    assert code == 0, said
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["Modelfile", "model.gguf"]
    assert (tmp_path / "one" / "Modelfile").read_text() == "FROM ./model.gguf\n"
    code, _, said = run(
        "export", out, "--format", "ollama", "--keep-edits", 1, "-o", tmp_path / "two"
    )
    assert code == 0, said
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["Modelfile", "adapter.gguf"]
    assert (tmp_path / "two" / "Modelfile").read_text() == (
        f"FROM {base}\nADAPTER ./adapter.gguf\n"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--format", "delta", "--rank", "3"], "belong to adapters"),
        (["--format", "checkpoint", "--type", "q8_0"], "--type and --base belong"),
        (["--format", "gguf-lora", "--rank", "3", "--keep-edits", "1"], "exclude each other"),
        (["--format", "gguf", "--type", "q3"], "--type is one of"),
    ],
)
def test_options_that_do_not_belong_together(run, out, tmp_path, given, said):
    code, _, error = run("export", out, *given, "-o", tmp_path / "new")
    assert code == 2
    assert said in error
    assert not (tmp_path / "new").exists()
