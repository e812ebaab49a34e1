"""A LoRA adapter of the base is the edited model, as far as its rank allows."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ultraedit import Edit, Editor, storage
from ultraedit.errors import InputError
from ultraedit.export import lora
from ultraedit.linalg.apply import MasterWeight

PROMPTS = torch.tensor([[1, 5, 9, 13, 17], [1, 30, 31, 32, 33]])


@pytest.fixture
def recorded(monkeypatch):
    """Every shift that an editor applies, by module, in order: what a journal would give."""
    shifts = []

    def add(self, shift, original=MasterWeight.add):
        shifts.append((self, shift))
        original(self, shift)

    monkeypatch.setattr(MasterWeight, "add", add)

    def of(editor):
        names = {id(master): name for name, master in editor.workbench.masters.items()}
        return [{names[id(m)]: shift} for m, shift in shifts if id(m) in names]

    return of


def differences(out):
    """Module -> master less original, float64, as stored."""
    snapshot = storage.read(out)
    return {
        name.removesuffix(".weight"): master.double() - snapshot.originals[name].double()
        for name, master in snapshot.masters.items()
    }


def products(folder, conv1d):
    """Module -> what the adapter's file adds to the weight, float64."""
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            b = tensors[key.replace("lora_A", "lora_B")]
            whole = b.double() @ a.double()
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            found[name] = whole.T if conv1d else whole
    assert len(tensors) == 2 * len(found)
    return found


@torch.no_grad()
def logits(model):
    return model(PROMPTS).logits.float()


def base_logits(edited, dtype):
    return logits(AutoModelForCausalLM.from_pretrained(edited.base, dtype=dtype))


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_full_rank_is_the_edited_model(edit_model, recorded, tmp_path, name, dtype, history):
    edited = edit_model(name, dtype)
    shifts = iter(recorded(edited.editor)) if history else None
    written = lora.write(edited.out, tmp_path / "lora", rank=1000, shifts=shifts)
    assert written.rank < 32 if history else written.rank == 32
    assert all(module.error < 1e-4 for module in written.modules)
    # In float32 on both sides: half-precision would hide what is to be seen.
    base = AutoModelForCausalLM.from_pretrained(edited.base, dtype=torch.float32)
    before = logits(base)
    snapshot = storage.read(edited.out)
    exact = AutoModelForCausalLM.from_pretrained(edited.out, dtype=torch.float32)
    with torch.no_grad():
        for parameter, master in snapshot.masters.items():
            exact.get_parameter(parameter).copy_(master)
    model = PeftModel.from_pretrained(base, tmp_path / "lora")
    assert (logits(exact) - before).abs().max() > 0.05
    assert torch.allclose(logits(model), logits(exact), atol=2e-4)
    generated = model.generate(input_ids=PROMPTS, max_new_tokens=4, do_sample=False)
    expected = exact.generate(input_ids=PROMPTS, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated, expected)
    merged = model.merge_and_unload()
    for module in edited.editor.modules:
        weight = merged.get_submodule(module).weight
        assert torch.allclose(weight, snapshot.masters[f"{module}.weight"], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_on_its_half_precision_base_it_answers_as_the_edited_model(edit_model, tmp_path, name):
    edited = edit_model(name, torch.bfloat16)
    lora.write(edited.out, tmp_path / "lora", tolerance=0.001)
    base = AutoModelForCausalLM.from_pretrained(edited.base)
    assert base.dtype == torch.bfloat16
    before, served = logits(base), logits(edited.editor.model)
    adapted = logits(PeftModel.from_pretrained(base, tmp_path / "lora"))
    assert (served - before).norm() > 0.05 * before.norm()
    assert (adapted - served).norm() < 0.1 * (served - before).norm()


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_falls_with_the_rank_and_is_the_files_own(
    edit_model, recorded, tmp_path, name, dtype, history
):
    edited = edit_model(name, dtype)
    true = differences(edited.out)
    base = AutoModelForCausalLM.from_pretrained(edited.base, dtype=torch.float32)
    before = float("inf")
    for rank in (1, 2, 4, 8):
        shifts = recorded(edited.editor) if history else None
        folder = tmp_path / f"rank{rank}"
        written = lora.write(edited.out, folder, rank=rank, shifts=shifts)
        assert written.rank == min(rank, written.rank)
        added = products(folder, name == "gpt2")
        assert added.keys() == true.keys() == {module.name for module in written.modules}
        for module in written.modules:
            missed = (true[module.name] - added[module.name]).norm() / true[module.name].norm()
            assert module.error == pytest.approx(float(missed), rel=1e-9)
            values = torch.linalg.svdvals(true[module.name])
            best = float(values[written.rank :].norm() / values.norm())
            assert module.error == pytest.approx(best, rel=1e-3, abs=1e-4)
        worst = max(module.error for module in written.modules)
        assert worst < before
        before = worst
        model = PeftModel.from_pretrained(base, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] == written.rank
        delta = {
            key: model.base_model.model.get_submodule(key).get_delta_weight("default")
            for key in added
        }
        for key, weight in delta.items():
            assert torch.allclose(weight.double(), added[key], atol=1e-6)
        model.unload()


def test_the_tolerance_takes_the_smallest_rank(edit_model, recorded, tmp_path):
    edited = edit_model("gpt2", torch.bfloat16, n_layer=8)
    assert len(edited.editor.modules) > 1
    true = differences(edited.out)
    for number, tolerance in enumerate((0.9, 0.5, 0.2, None, 0.01)):
        expected = 1
        for whole in true.values():
            values = torch.linalg.svdvals(whole)
            tail = values.square().flip(0).cumsum(0).flip(0).sqrt() / values.norm()
            expected = max(expected, int((tail > (tolerance or 0.05)).sum()))
        for history in (True, False):
            written = lora.write(
                edited.out,
                tmp_path / f"{number}-{history}",
                tolerance=tolerance,
                shifts=recorded(edited.editor) if history else None,
            )
            assert written.rank == expected
            assert max(module.error for module in written.modules) <= (tolerance or 0.05)
    with pytest.raises(InputError, match="no rank keeps to a tolerance of 1e-12"):
        lora.write(edited.out, tmp_path / "never", tolerance=1e-12)
    assert not (tmp_path / "never").exists()


def test_a_tolerance_that_the_history_cannot_keep_is_kept_by_the_weights(
    edit_model, recorded, tmp_path
):
    edited = edit_model("llama", torch.float32)
    strict = lora.write(
        edited.out, tmp_path / "strict", tolerance=2e-7, shifts=recorded(edited.editor)
    )
    assert max(module.error for module in strict.modules) <= 2e-7
    partial = recorded(edited.editor)[:1]
    written = lora.write(edited.out, tmp_path / "partial", tolerance=0.01, shifts=partial)
    assert max(module.error for module in written.modules) <= 0.01


def test_history_and_weights_give_the_same_adapter(edit_model, recorded, tmp_path):
    edited = edit_model("llama", torch.bfloat16)
    for rank in (1, 3, 1000):
        lora.write(edited.out, tmp_path / f"a{rank}", rank=rank, shifts=recorded(edited.editor))
        lora.write(edited.out, tmp_path / f"b{rank}", rank=rank)
        one, other = (products(tmp_path / f"{k}{rank}", False) for k in "ab")
        for name, whole in differences(edited.out).items():
            assert (one[name] - other[name]).norm() <= 1e-3 * whole.norm()


def test_modules_that_changed_less_are_filled_up(edit_model, tmp_path, recorded, monkeypatch):
    """Of one rank for all, as loaders want; here one module did not change at all."""
    edited = edit_model("gpt2", n_layer=8)
    first, *others = edited.editor.modules
    assert others
    master = edited.editor.workbench.masters[first]
    master.set(master.original.float())
    edited.editor.save(edited.out)
    written = lora.write(edited.out, tmp_path / "lora", rank=6)
    assert written.rank == 6
    errors = {module.name: module.error for module in written.modules}
    assert errors[first] == 0
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in tensors.values()} == {6}
    added = products(tmp_path / "lora", conv1d=True)
    assert not added[first].any()
    assert all(added[name].any() for name in others)


@pytest.mark.parametrize("rank", [None, 16])
def test_a_model_that_did_not_change_is_an_adapter_of_rank_one(edit_model, tmp_path, rank):
    edited = edit_model()
    for master in edited.editor.workbench.masters.values():
        master.set(master.original.float())
    edited.editor.save(edited.out)
    written = lora.write(edited.out, tmp_path / "lora", rank=rank)
    assert written.rank == 1
    assert [module.error for module in written.modules] == [0]
    base = AutoModelForCausalLM.from_pretrained(edited.base)
    before = logits(base)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path / "lora")), before)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_files_are_what_servers_read(edit_model, tmp_path, name):
    edited = edit_model(name, torch.bfloat16)
    lora.write(edited.out, tmp_path / "lora", rank=4)
    assert {path.name for path in (tmp_path / "lora").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not list(tmp_path.glob(".tmp-*"))
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert set(tensors) == {
        f"base_model.model.{module}.lora_{part}.weight"
        for module in edited.editor.modules
        for part in "AB"
    }
    for module, target in edited.editor.workbench.targets.items():
        prefix = f"base_model.model.{module}"
        assert tensors[f"{prefix}.lora_A.weight"].shape == (4, target.d)
        assert tensors[f"{prefix}.lora_B.weight"].shape == (target.e, 4)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4, "bias": "none",
        "target_modules": sorted(edited.editor.modules), "fan_in_fan_out": name == "gpt2",
        "base_model_name_or_path": str(edited.base), "inference_mode": True,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert not config["modules_to_save"]
    assert not config["use_dora"]


def test_only_the_edited_blocks_are_adapted(edit_model, tmp_path):
    """Of twelve blocks, those whose names end alike must stay as they are."""
    edited = edit_model("llama", num_hidden_layers=12)
    lora.write(edited.out, tmp_path / "lora", rank=2)
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora")
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert adapted == set(edited.editor.modules)


def test_the_same_model_gives_the_same_bytes_in_every_process(edit_model, tmp_path, contents):
    edited = edit_model("gpt2", n_layer=8)
    code = "import sys; from ultraedit.export import lora; lora.write(*sys.argv[1:], rank=3)"
    for number in range(3):
        folder = tmp_path / str(number)
        subprocess.run([sys.executable, "-c", code, edited.out, folder], check=True)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_base_from_the_hub_is_named_by_its_id(edit_model, tmp_path):
    edited = edit_model()
    commit = "0123456789abcdef"
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / commit
    shutil.copytree(edited.base, snapshot)
    editor = Editor.from_pretrained(snapshot, lr=0.05, method="ultraedit")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "out")
    assert lora.write(tmp_path / "out", tmp_path / "lora").base == "some/model"
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", commit)


def test_a_model_that_never_had_a_folder_has_no_base_name(build, tokenizer, tmp_path):
    editor = Editor(build("llama"), tokenizer, lr=0.05, method="ultraedit")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "out")
    assert lora.write(tmp_path / "out", tmp_path / "lora").base is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 4, "tolerance": 0.1}, "exclude each other"),
        ({"rank": 0}, "at least 1"),
        ({"rank": -3}, "at least 1"),
        ({"tolerance": 0.0}, "positive"),
        ({"tolerance": -0.1}, "positive"),
        ({"tolerance": float("nan")}, "positive"),
        ({"tolerance": float("inf")}, "positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(edit_model, tmp_path, options, said):
    edited = edit_model()
    with pytest.raises(InputError, match=said):
        lora.write(edited.out, tmp_path / "lora", **options)
    assert not (tmp_path / "lora").exists()


def test_without_peft_it_says_what_to_install(edit_model, tmp_path, monkeypatch):
    edited = edit_model()
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delattr(lora, "decompose")  # it says so before the work, not after
    with pytest.raises(InputError, match=r"pip install 'ultraedit\[lora\]'"):
        lora.write(edited.out, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_damaged_masters_and_originals_are_named(edit_model, tmp_path):
    edited = edit_model("llama", torch.bfloat16)
    for path in (edited.out / "ultraedit").glob("[mo]*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=path.name):
            lora.write(edited.out, tmp_path / "lora")
        path.write_bytes(content)
    lora.write(edited.out, tmp_path / "lora")
