import random

import pytest
import torch
from torch.nn import functional as F

from ultraedit import Edit, Editor, InputError
from ultraedit.methods.ft import FineTuning, FineTuningConfig

EDITS = [
    Edit("the capital of france is", "city guitar"),
    Edit("who plays jazz", "paris"),
    Edit("where was person born", "in the capital city of france what where"),
]


def weight_of(editor):
    (master,) = editor.workbench.masters.values()
    return master.master.clone()


@pytest.mark.parametrize("batch", [2, 100])
def test_the_steps_are_pytorchs(build, tokenizer, batch):
    """Against Adam on the model's own parameter, one text at a time."""
    editor = Editor(build("llama"), tokenizer, method="ft", epochs=3, batch=batch, lr=1e-3)
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    reference = build("llama")
    reference.requires_grad_(False)
    parameter = reference.get_submodule(editor.modules[0]).weight.requires_grad_(True)
    optimiser = torch.optim.Adam([parameter], lr=1e-3)
    for epoch in range(3):
        order = random.Random(epoch).sample(range(3), 3)
        for first in range(0, 3, batch):
            chunk = [texts[place] for place in order[first : first + batch]]
            optimiser.zero_grad()
            losses = []
            for text in chunk:
                ids = torch.tensor([text.ids])
                logits = reference(ids).logits[0, len(text.prompt) - 1 : -1]
                losses.append(F.cross_entropy(logits, torch.tensor(text.target), reduction="none"))
            torch.cat(losses).mean().backward()
            optimiser.step()
    editor.edit(EDITS)
    torch.testing.assert_close(weight_of(editor), parameter.detach(), rtol=1e-4, atol=2e-5)


def test_every_architecture_learns(build, architecture, tokenizer):
    editor = Editor(build(architecture), tokenizer, method="ft")
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    before = sum(float(s.losses.sum()) for s in editor.workbench.score(texts))
    turn = editor.edit(EDITS)
    assert turn.passes == 1
    assert sum(float(s.losses.sum()) for s in editor.workbench.score(texts)) < before


def test_it_stops_when_the_loss_is_small_enough(build, tokenizer):
    def change(**settings):
        editor = Editor(build("llama"), tokenizer, method="ft", **settings)
        before = weight_of(editor)
        editor.edit(EDITS)
        return weight_of(editor) - before

    assert torch.equal(change(enough=1e9), change(epochs=1))
    assert not torch.equal(change(epochs=2), change(epochs=1))


def test_the_callers_flags_and_the_served_weights_come_back_when_it_fails(build, tokenizer):
    model = build("llama")
    editor = Editor(model, tokenizer, method="ft")
    flags = [p.requires_grad for p in model.parameters()]
    before = weight_of(editor)
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    passes = FineTuning().passes(editor.workbench, EDITS, texts)
    next(passes)
    assert torch.equal(weight_of(editor), before)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_half_precision_keeps_small_steps(build, tokenizer):
    editor = Editor(build("llama").to(torch.bfloat16), tokenizer, method="ft", epochs=1, lr=1e-6)
    before = weight_of(editor)
    editor.edit(EDITS)
    assert not torch.equal(weight_of(editor), before)


def test_an_edit_alone_cannot_be_taken_back(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    editor = Editor.from_pretrained(tmp_path / "base", method="ft")
    editor.edit([Edit("who is", "city", id="a"), Edit("who plays jazz", "paris", id="b")])
    editor.save(tmp_path / "out")
    with pytest.raises(InputError, match="cannot tell the edits"):
        editor.undo(edit="a")
    assert editor.undo(to=0).exact


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"epochs": 0}, {"batch": 1.5}, {"enough": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        FineTuningConfig(**settings)
