import psutil
import pytest
import torch

from ultraedit import Edit, Editor
from ultraedit.models import batch_plan
from ultraedit.models.batch_plan import LEAST_TOKENS, MOST_TOKENS, free_bytes, plan_batch_tokens
from ultraedit.models.memory import edit_memory, sizes_of
from ultraedit.models.presets import choose_modules

EDIT = Edit("the capital of france is", "jazz guitar")


def stated(model, turn_size=100, **options):
    return edit_memory(model, choose_modules(model), turn_size, **options)


def test_what_stays_from_turn_to_turn_is_counted_to_the_byte(build, tokenizer):
    model = build("llama").to(torch.bfloat16)
    parts = stated(model)
    editor = Editor(model, tokenizer, lr=1e-3, method="ultraedit")
    editor.edit([EDIT])
    masters = editor.workbench.masters.values()
    assert parts["masters"] == sum(m.master.nbytes for m in masters)
    assert parts["originals (cpu)"] == sum(m.original.nbytes for m in masters)
    assert parts["backup"] == sum(t.nbytes for t in editor.workbench._backup.values())
    assert parts["weights"] == sum(p.nbytes for p in model.parameters())
    assert stated(build("llama"))["masters"] == 0


def test_hidden_states_are_those_of_a_window(build, tokenizer):
    model = build("llama")
    editor = Editor(model, tokenizer, lr=1e-3, method="ultraedit")
    edits = [Edit(f"the capital of {place} is", "jazz") for place in ("france", "paris", "what")]
    editor.look_ahead(edits)
    tokens = sum(len(t.ids) - 1 for t in editor._texts._kept.values())
    assert (
        editor.workbench.passes.prefix.bytes == tokens * sizes_of(model, editor.modules).width * 4
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_peak_covers_its_parts_and_grows_with_what_it_depends_on(build, architecture, device):
    model = build(architecture)
    parts = stated(model, device=device)
    standing = parts["masters"] + parts["backup"] + parts["hidden states"]
    most = max(parts["frozen pass"], parts["rows"] + max(parts["graph"], parts["solve"]))
    assert parts["peak"] >= standing + most
    assert stated(model, 1000, device=device)["peak"] > parts["peak"]
    assert stated(model, batch_tokens=128, device=device)["peak"] < parts["peak"]
    assert stated(model, 1, device=device)["graph"] < parts["graph"]


def test_modules_of_the_first_block_leave_no_frozen_pass(build):
    model = build("llama")
    parts = edit_memory(model, ["model.layers.0.mlp.down_proj"], 100)
    assert parts["hidden states"] == parts["frozen pass"] == 0
    assert sizes_of(model, ["model.layers.0.mlp.down_proj"]).top == 4


def test_batches_shrink_with_the_memory_that_is_free(build, monkeypatch):
    model = build("llama")
    names = choose_modules(model)
    need = {
        tokens: edit_memory(model, names, batch_plan.TURN, "cpu", tokens)["peak"]
        for tokens in (2048, 1024, 512, 256)
    }
    for free, expected in ((2**40, 2048), (need[512] * 1.3, 512), (1, LEAST_TOKENS)):
        monkeypatch.setattr(batch_plan, "free_bytes", lambda device, free=free: free)
        assert plan_batch_tokens(model, names) == expected
    assert plan_batch_tokens(model, []) == MOST_TOKENS["cpu"]
    monkeypatch.undo()
    assert 0 < free_bytes(torch.device("cpu")) < psutil.virtual_memory().total


def test_the_plan_is_recorded_and_reused(build, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_plan, "free_bytes", lambda device: 1)
    editor = Editor(build("llama"), tokenizer, lr=1e-3, method="ultraedit")
    assert editor.workbench.batch_tokens == LEAST_TOKENS
    editor.edit([EDIT])
    editor.save(tmp_path)
    monkeypatch.undo()
    assert Editor.load(tmp_path).workbench.batch_tokens == LEAST_TOKENS
