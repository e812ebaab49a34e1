from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ultraedit import TurnRefusedError
from ultraedit.core.positions import Spots, moved
from ultraedit.encoding.batching import collate
from ultraedit.methods.locate import value
from ultraedit.methods.locate.contexts import by_edit, essence
from ultraedit.methods.locate.keys import at_places, mean_keys
from ultraedit.methods.locate.value import Search, search

HOW = Search(steps=4, lr=0.05, clamp=4.0, decay=0.5, kl=0.0625, enough=1e-9)


@pytest.fixture
def task(make, edits):
    editor = make("rome")
    bench = editor.bench
    own = by_edit(bench, edits, "subject_last", ["", "who is what. "])
    essences = [essence(bench, edit, "subject_last") for edit in edits]
    module = bench.targets[editor.modules[0]].module
    now = at_places(bench, {"m": module}, [texts[0] for texts in own])["m"][1]
    return bench, module, now, own, essences


def loss_of(bench, module, change, size, texts, essential, before, how):
    """The paper's objective of one edit, text by text, by autograd."""
    total = how.decay * change.norm() / size
    for one in texts:
        batch = collate([one.text], [0], "cpu", 0)
        with moved(module, Spots.of(batch, [one.place]), change[None]):
            logits = bench.model(torch.tensor([one.text.ids[:-1]])).logits[0]
        rows = logits[len(one.text.prompt) - 1 :]
        total = total + F.cross_entropy(rows, torch.tensor(one.text.target)) / len(texts)
    batch = collate([essential.text], [0], "cpu", 0)
    with moved(module, Spots.of(batch, [essential.place]), change[None]):
        after = bench.model(torch.tensor([essential.text.prompt])).logits[0, -1].log_softmax(-1)
    return total + how.kl * (after.exp() * (after - before)).sum()


def test_every_edit_is_what_adam_finds_for_it_alone(task):
    """Side by side in padded batches, against PyTorch's Adam on one edit's objective."""
    bench, module, now, own, essences = task
    found = search(bench, module, now, own, essences, HOW)
    for place, texts in enumerate(own):
        with torch.no_grad():
            ids = torch.tensor([essences[place].text.prompt])
            before = bench.model(ids).logits[0, -1].log_softmax(-1)
        change = torch.zeros(now.shape[1], requires_grad=True)
        optimiser = torch.optim.Adam([change], lr=HOW.lr)
        size = now[place].norm()
        for _ in range(HOW.steps):
            optimiser.zero_grad()
            loss_of(bench, module, change, size, texts, essences[place], before, HOW).backward()
            optimiser.step()
            with torch.no_grad():
                change *= (HOW.clamp * size / change.norm()).clamp(max=1)
        torch.testing.assert_close(found[place], change.detach(), rtol=1e-2, atol=2e-3)


def test_more_than_fit_together_are_found_as_well(task, monkeypatch):
    bench, module, now, own, essences = task
    whole = search(bench, module, now, own, essences, HOW)
    monkeypatch.setattr(value, "TOGETHER", 2)
    torch.testing.assert_close(
        search(bench, module, now, own, essences, HOW), whole, rtol=1e-3, atol=1e-4
    )


def test_the_change_is_clamped(task):
    bench, module, now, own, essences = task
    found = search(bench, module, now, own, essences, replace(HOW, lr=5.0, clamp=0.5))
    torch.testing.assert_close(found.norm(dim=1), 0.5 * now.norm(dim=1))


def test_a_search_ends_where_the_loss_is_small_enough(task):
    bench, module, now, own, essences = task
    none = search(bench, module, now, own, essences, replace(HOW, enough=1e9))
    assert not none.any()
    one = search(bench, module, now, own, essences, replace(HOW, steps=1))
    assert one.norm() > 0
    assert not torch.equal(one, search(bench, module, now, own, essences, HOW))


def test_steps_of_its_own_choice_reach_the_clamp(task):
    bench, module, now, own, essences = task
    auto = replace(HOW, lr=None, steps=1, decay=0.0)
    # Small hidden states: the paper's step; long ones: a share of the way to the clamp.
    found = search(bench, module, now, own, essences, replace(auto, clamp=0.01))
    torch.testing.assert_close(found.norm(dim=1), 0.01 * now.norm(dim=1))
    long = search(bench, module, 1e4 * now, own, essences, auto)
    moving = long[long.abs() > 0]
    step = (4 * 1e4 * now.norm(dim=1) / (value.REACH * now.shape[1] ** 0.5))[:, None]
    torch.testing.assert_close(long.abs().amax(1, keepdim=True), step, rtol=1e-3, atol=0)
    assert len(moving)


def test_a_loss_that_is_no_number_refuses_the_turn(task):
    bench, module, now, own, essences = task
    with torch.no_grad():
        bench.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(TurnRefusedError, match="not finite"):
        search(bench, module, now, own, essences, HOW)


def test_the_callers_flags_come_back(task):
    bench, module, now, own, essences = task
    flags = [p.requires_grad for p in bench.model.parameters()]
    search(bench, module, now, own, essences, replace(HOW, steps=1))
    assert [p.requires_grad for p in bench.model.parameters()] == flags
    assert all(p.grad is None for p in bench.model.parameters())


def test_keys_are_the_mean_over_an_edits_texts(task):
    bench, module, _, own, _ = task
    found = mean_keys(bench, {"m": module}, own)["m"]
    for place, texts in enumerate(own):
        seen = [at_places(bench, {"m": module}, [one])["m"][0][0].double() for one in texts]
        torch.testing.assert_close(
            found[place].double(), torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5
        )
