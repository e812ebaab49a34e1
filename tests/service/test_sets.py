import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultraedit import Edit, Editor, InputError
from ultraedit.service.errors import ApiError
from ultraedit.service.overlay import Overlaid
from ultraedit.service.service import Service
from ultraedit.service.sets import FIRST, ROOT, Sets

EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris", id="b"),
]


@pytest.fixture
def sets(base, tmp_path):
    return Sets(tmp_path / "sets", base, anchors=48, chat="off")


def write(sets, name, *edits):
    turn = sets.editor(name).edit(edits)
    sets.save(name)
    return turn


def logits(model, overlay, ids):
    overlaid = Overlaid(model)
    with torch.no_grad(), overlaid.rows([overlay]):
        found = model(ids).logits
    overlaid.close()
    return found


IDS = torch.tensor([[1, 5, 9, 7, 30, 12]])


def test_an_overlay_is_what_the_saved_model_has_more(sets, base):
    sets.create("team-a")
    assert sets.overlay("team-a").rank == 0
    turn = write(sets, "team-a", *EDITS)
    assert all(turn.learned)
    saved = AutoModelForCausalLM.from_pretrained(sets.get("team-a").out).eval()
    with torch.no_grad():
        expected = saved(IDS).logits
        plain = base.model(IDS).logits
    model = base.running()
    found = logits(model, sets.overlay("team-a"), IDS)
    assert (expected - plain).norm() > 100 * (found - expected).norm()
    # The base and other sets are as before.
    assert torch.equal(logits(model, sets.overlay(ROOT), IDS), plain)
    described = sets.describe("team-a")
    assert described["rank"] == sets.overlay("team-a").rank > 0


def test_sets_are_read_again_after_a_restart_and_go_on(sets, base, tmp_path):
    sets.create("team-a")
    write(sets, "team-a", EDITS[0])
    before = logits(base.running(), sets.overlay("team-a"), IDS)
    again = Sets(tmp_path / "sets", base, anchors=48, chat="off")
    assert again.names() == [ROOT, FIRST, "team-a"]
    assert again.describe("team-a")["loaded"] is False
    torch.testing.assert_close(
        logits(base.running(), again.overlay("team-a"), IDS), before, rtol=1e-3, atol=1e-3
    )
    write(again, "team-a", EDITS[1])
    described = again.describe("team-a")
    assert (described["edits"], described["turns"], described["entry"]) == (2, 2, 2)
    # The same as in one go, without a server in between.
    other = Editor.load(again.get("team-a").out)
    assert other.edits == 2


def test_a_set_has_the_edits_of_what_it_extends(sets, base):
    sets.create("below")
    sets.create("above", "below")
    write(sets, "below", EDITS[0])
    below = sets.overlay("below")
    assert sets.overlay("above").factors.keys() == below.factors.keys()
    model = base.running()
    assert torch.equal(logits(model, sets.overlay("above"), IDS), logits(model, below, IDS))
    # Its own edits are learned over those: its editor computes what is served.
    assert all(write(sets, "above", EDITS[1]).learned)
    with torch.no_grad():
        edited = sets.editor("above").model(IDS).logits
    torch.testing.assert_close(
        logits(model, sets.overlay("above"), IDS), edited, rtol=1e-2, atol=1e-2
    )
    # What is written below is seen above at once, there too.
    write(sets, "below", Edit("where in city", "born", id="c"))
    with torch.no_grad():
        again = sets.editor("above").model(IDS).logits
    assert not torch.allclose(again, edited, atol=1e-2)
    torch.testing.assert_close(
        logits(model, sets.overlay("above"), IDS), again, rtol=1e-2, atol=1e-2
    )
    with pytest.raises(ApiError, match="above extends it"):
        sets.delete("below")
    sets.delete("above")
    assert sets.names() == [ROOT, "below", FIRST]
    with pytest.raises(ApiError, match="cannot be deleted"):
        sets.delete(ROOT)


def test_what_is_not_saved_is_forgotten_with_its_editor(sets):
    sets.create("team-a")
    write(sets, "team-a", EDITS[0])
    before = sets.overlay("team-a")
    sets.editor("team-a").edit([EDITS[1]])
    sets.drop_editor("team-a")
    assert sets.editor("team-a").edits == 1
    assert sets.overlay("team-a") is before


def test_sets_leave_memory_and_come_back(base, tmp_path):
    sets = Sets(tmp_path / "sets", base, anchors=48, chat="off", most_bytes=1, most_editors=1)
    for name in ("one", "two"):
        sets.create(name)
        write(sets, name, EDITS[0])
    first = logits(base.running(), sets.overlay("one"), IDS)
    assert sets.describe("one")["loaded"]
    sets.overlay("two")
    assert not sets.describe("one")["loaded"]
    torch.testing.assert_close(
        logits(base.running(), sets.overlay("one"), IDS), first, rtol=1e-3, atol=1e-3
    )
    assert not sets.describe("two")["loaded"]


@pytest.mark.parametrize("name", ["../x", "A", "", "a/b", "a..b", "x" * 64, ".hidden"])
def test_names_that_are_none(sets, name):
    with pytest.raises(ApiError) as caught:
        sets.create(name)
    assert caught.value.status == 400


@pytest.mark.parametrize("extends", ["gone", "one", "two"])
def test_a_set_that_extends_nothing_real_is_refused(base, tmp_path, sets, extends):
    sets.create("one")
    sets.create("two", "one")
    path = sets.get("one").folder / "set.json"
    path.write_text(json.dumps({"extends": extends, "created": 1.0}))
    with pytest.raises(InputError, match=r"set\.json is damaged: it extends"):
        Sets(tmp_path / "sets", base)


def test_what_a_server_refuses_at_its_start(base, build, chatty, tmp_path):
    with pytest.raises(InputError, match="changes no weights"):
        Sets(tmp_path / "sets", base, method="wise")
    Service(base, tmp_path / "data")._stack.close()
    build("llama", seed=1).save_pretrained(tmp_path / "other")
    chatty.save_pretrained(tmp_path / "other")
    from ultraedit.service.base import Base

    with pytest.raises(InputError, match="holds edits of"):
        Service(Base.load(str(tmp_path / "other")), tmp_path / "data")
