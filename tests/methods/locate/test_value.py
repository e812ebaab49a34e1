from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ultraedit import TurnRefusedError
from ultraedit.encoding.batching import collate
from ultraedit.forward.positions import Spots, moved
from ultraedit.methods.locate import value
from ultraedit.methods.locate.contexts import by_edit, essence
from ultraedit.methods.locate.keys import at_places, mean_keys
from ultraedit.methods.locate.value import Search, search

HOW = Search(steps=4, lr=0.05, clamp=4.0, decay=0.5, kl=0.0625, enough=1e-9)


@pytest.fixture
def task(make, edits):
    editor = make("rome")
    workbench = editor.workbench
    own = by_edit(workbench, edits, "subject_last", ["", "who is what. "])
    essences = [essence(workbench, edit, "subject_last") for edit in edits]
    module = workbench.targets[editor.modules[0]].module
    now = at_places(workbench, {"m": module}, [texts[0] for texts in own])["m"][1]
    return workbench, module, now, own, essences


def loss_of(workbench, module, change, size, texts, essential, before, how):
    """The paper's objective of one edit, text by text, by autograd."""
    total = how.decay * change.norm() / size
    for one in texts:
        batch = collate([one.text], [0], "cpu", 0)
        with moved(module, Spots.of(batch, [one.place]), change[None]):
            logits = workbench.model(torch.tensor([one.text.ids[:-1]])).logits[0]
        rows = logits[len(one.text.prompt) - 1 :]
        total = total + F.cross_entropy(rows, torch.tensor(one.text.target)) / len(texts)
    batch = collate([essential.text], [0], "cpu", 0)
    with moved(module, Spots.of(batch, [essential.place]), change[None]):
        after = workbench.model(torch.tensor([essential.text.prompt])).logits[0, -1].log_softmax(-1)
    return total + how.kl * (after.exp() * (after - before)).sum()


def test_every_edit_is_what_adam_finds_for_it_alone(task):
    """Side by side in padded batches, against PyTorch's Adam on one edit's objective."""
    workbench, module, now, own, essences = task
    found = search(workbench, module, now, own, essences, HOW)
    for place, texts in enumerate(own):
        with torch.no_grad():
            ids = torch.tensor([essences[place].text.prompt])
            before = workbench.model(ids).logits[0, -1].log_softmax(-1)
        change = torch.zeros(now.shape[1], requires_grad=True)
        optimiser = torch.optim.Adam([change], lr=HOW.lr)
        size = now[place].norm()
        for _ in range(HOW.steps):
            optimiser.zero_grad()
            loss_of(workbench, module, change, size, texts, essences[place], before, HOW).backward()
            optimiser.step()
            with torch.no_grad():
                change *= (HOW.clamp * size / change.norm()).clamp(max=1)
        torch.testing.assert_close(found[place], change.detach(), rtol=1e-2, atol=2e-3)


def test_more_than_fit_together_are_found_as_well(task, monkeypatch):
    workbench, module, now, own, essences = task
    whole = search(workbench, module, now, own, essences, HOW)
    monkeypatch.setattr(value, "TOGETHER", 2)
    torch.testing.assert_close(
        search(workbench, module, now, own, essences, HOW), whole, rtol=1e-3, atol=1e-4
    )


def test_the_change_is_clamped(task):
    workbench, module, now, own, essences = task
    found = search(workbench, module, now, own, essences, replace(HOW, lr=5.0, clamp=0.5))
    torch.testing.assert_close(found.norm(dim=1), 0.5 * now.norm(dim=1))


def test_a_search_ends_where_the_loss_is_small_enough(task):
    workbench, module, now, own, essences = task
    none = search(workbench, module, now, own, essences, replace(HOW, enough=1e9))
    assert not none.any()
    one = search(workbench, module, now, own, essences, replace(HOW, steps=1))
    assert one.norm() > 0
    assert not torch.equal(one, search(workbench, module, now, own, essences, HOW))


def test_steps_of_its_own_choice_reach_the_clamp(task):
    workbench, module, now, own, essences = task
    auto = replace(HOW, lr=None, steps=1, decay=0.0)
    # Small hidden states: the paper's step; long ones: a share of the way to the clamp.
    found = search(workbench, module, now, own, essences, replace(auto, clamp=0.01))
    torch.testing.assert_close(found.norm(dim=1), 0.01 * now.norm(dim=1))
    long = search(workbench, module, 1e4 * now, own, essences, auto)
    moving = long[long.abs() > 0]
    step = (4 * 1e4 * now.norm(dim=1) / (value.REACH * now.shape[1] ** 0.5))[:, None]
    torch.testing.assert_close(long.abs().amax(1, keepdim=True), step, rtol=1e-3, atol=0)
    assert len(moving)


def test_a_loss_that_is_no_number_refuses_the_turn(task):
    workbench, module, now, own, essences = task
    with torch.no_grad():
        workbench.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(TurnRefusedError, match="not finite"):
        search(workbench, module, now, own, essences, HOW)


def test_the_callers_flags_come_back(task):
    workbench, module, now, own, essences = task
    flags = [p.requires_grad for p in workbench.model.parameters()]
    search(workbench, module, now, own, essences, replace(HOW, steps=1))
    assert [p.requires_grad for p in workbench.model.parameters()] == flags
    assert all(p.grad is None for p in workbench.model.parameters())


def test_keys_are_the_mean_over_an_edits_texts(task):
    workbench, module, _, own, _ = task
    found = mean_keys(workbench, {"m": module}, own)["m"]
    for place, texts in enumerate(own):
        seen = [at_places(workbench, {"m": module}, [one])["m"][0][0].double() for one in texts]
        torch.testing.assert_close(
            found[place].double(), torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5
        )
