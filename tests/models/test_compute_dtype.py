import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ultraedit import Edit, Editor
from ultraedit.cli.app import build_app
from ultraedit.models import compute_dtype as module
from ultraedit.models.compute_dtype import compute_dtype
from ultraedit.models.memory import edit_memory

CPU = torch.device("cpu")
EDITS = [Edit("who plays jazz", "paris"), Edit("what is", "guitar")]


@pytest.fixture
def processor(monkeypatch):
    """What torch says of the processor, as on one of the test's choice."""
    capabilities = {"avx512_f": True, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    return capabilities


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_computes_bfloat16_only_with_instructions_for_it(processor, name):
    assert compute_dtype(torch.bfloat16, CPU, 10) == torch.float32
    assert compute_dtype(torch.float16, CPU, 10) == torch.float32
    assert compute_dtype(torch.float32, CPU, 10) == torch.float32
    assert compute_dtype(torch.bfloat16, torch.device("cuda"), 10) == torch.bfloat16
    processor[name] = True
    assert compute_dtype(torch.bfloat16, CPU, 10) == torch.bfloat16
    assert compute_dtype(torch.float16, CPU, 10) == torch.float32


def test_a_release_of_torch_that_cannot_tell_computes_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert compute_dtype(torch.bfloat16, CPU, 10) == torch.float32


def test_float32_that_does_not_fit_is_not_taken(processor, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda device: 100)
    assert compute_dtype(torch.bfloat16, CPU, 12) == torch.float32
    assert compute_dtype(torch.bfloat16, CPU, 13) == torch.bfloat16


@pytest.fixture
def half(build, tokenizer, tmp_path):
    """A folder in bfloat16."""
    folder = tmp_path / "half"
    build("llama").to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved_weights(folder):
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


def test_it_is_saved_in_the_checkpoints_dtype_and_goes_on_to_the_same_bits(
    half, processor, tmp_path
):
    whole = Editor.from_pretrained(half, method="ft", lr=1e-3)
    assert whole.model.dtype == torch.float32
    whole.edit(EDITS[:1])
    whole.save(tmp_path / "out")
    weights = saved_weights(tmp_path / "out")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    # What answers is what was saved.
    for name, target in whole.workbench.targets.items():
        assert torch.equal(target.parameter, weights[f"{name}.weight"].float())
    whole.edit(EDITS[1:])
    # On a machine that would choose otherwise.
    processor["avx512_bf16"] = True
    resumed = Editor.load(tmp_path / "out")
    assert resumed.model.dtype == torch.float32
    resumed.edit(EDITS[1:])
    for name, master in whole.workbench.masters.items():
        assert torch.equal(resumed.workbench.masters[name].master, master.master)
    other = Editor.load(tmp_path / "out", dtype="bfloat16")
    assert "edited in float32" in other.read_only


def test_what_a_wider_dtype_takes_is_counted(half, processor):
    editor = Editor.from_pretrained(half, method="ft", lr=1e-3)
    held = editor.workbench.masters.values()
    parts = edit_memory(editor.model, editor.modules, 10, stored=editor.workbench.stored)
    assert parts["masters"] == sum(one.master.nbytes for one in held) > 0
    assert parts["originals (cpu)"] == sum(one.original.nbytes for one in held)
    assert all(one.master.data_ptr() != one.parameter.data_ptr() for one in held)
    told = CliRunner().invoke(build_app(), ["inspect", str(half), "--method", "ft", "--json"])
    shown = json.loads(told.stdout)
    assert (shown["dtype"], shown["compute_dtype"]) == ("bfloat16", "float32")
    assert shown["memory"]["masters"] == parts["masters"]
    assert shown["memory"]["weights"] == sum(p.nbytes for p in editor.model.parameters())


def test_back_to_the_unedited_model(half, processor):
    editor = Editor.from_pretrained(half, method="ft", lr=1e-2)
    before = editor.ask("who plays jazz")
    original = {name: t.parameter.clone() for name, t in editor.workbench.targets.items()}
    editor.edit(EDITS)
    with editor.unedited():
        assert editor.ask("who plays jazz") == before
        for name, target in editor.workbench.targets.items():
            assert torch.equal(target.parameter, original[name])
    assert any(
        not torch.equal(editor.workbench.targets[n].parameter, w) for n, w in original.items()
    )


def test_a_named_dtype_is_computed_and_saved_in(half, tmp_path):
    editor = Editor.from_pretrained(half, method="ft", lr=1e-3, dtype="float32")
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    edited = {f"{name}.weight" for name in editor.modules}
    weights = saved_weights(tmp_path / "out")
    assert {weights[name].dtype for name in edited} == {torch.float32}
