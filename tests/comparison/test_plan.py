import json
from dataclasses import replace
from pathlib import Path

import pytest

from ultraedit import InputError
from ultraedit.comparison.plan import Options, Plan, Run, joined

OUT = Path("out")
PLAN = Plan(
    "base", "f" * 64, "facts.jsonl", "d" * 64, 40, 20, None, Options(batch_tokens=64),
    (Run("ft", "ft", {"lr": 0.1}), Run("ft-at-once", "ft", {"lr": 0.1}, at_once=True)),
)  # fmt: skip


def test_json_and_back():
    assert Plan.of_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_all_at_once_is_one_turn():
    assert [PLAN.turn_size_of(run) for run in PLAN.runs] == [20, 40]
    assert [run.title for run in PLAN.runs] == ["ft", "ft (all at once)"]


def test_methods_are_added_behind_those_that_are_there():
    wanted = replace(PLAN, model="moved", runs=(Run("rome", "rome"),))
    both = joined(OUT, PLAN, wanted, set())
    assert [run.name for run in both.runs] == ["ft", "ft-at-once", "rome"]
    assert both.model == "moved", "the same weights by another name"
    assert joined(OUT, both, PLAN, set()).runs == both.runs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "0" * 64}, "another base"),
        ({"edits": 41}, "40 edits, and facts.jsonl gives 41"),
        ({"digest": "0" * 64}, "other records"),
        ({"turn_size": 10}, "turns of 20, not of 10"),
        ({"options": Options(batch_tokens=1)}, "--batch-tokens 64, not 1"),
        ({"options": Options(batch_tokens=64, generate=True)}, "--generate off, not on"),
        ({"options": Options(batch_tokens=64, append_eos=False)}, "--append-eos left open, not"),
        ({"options": Options(batch_tokens=64, text_digest="x")}, "--text"),
        ({"runs": (Run("ft", "ft", {"lr": 0.2}),)}, "lr=0.1 for ft, not with lr=0.2"),
        ({"runs": (Run("ft", "ft"),)}, "not with no settings of its own"),
    ],
)
def test_what_could_not_stand_in_one_table_is_refused(change, words):
    with pytest.raises(InputError, match="name another folder") as caught:
        joined(OUT, PLAN, replace(PLAN, **change), set())
    assert words in str(caught.value)
    assert str(caught.value).startswith("out ")


def test_without_a_fingerprint_a_base_is_known_by_its_name():
    with pytest.raises(InputError, match="another base"):
        joined(OUT, PLAN, replace(PLAN, model="other", fingerprint=None), set())
    assert joined(OUT, PLAN, replace(PLAN, fingerprint=None), set()).fingerprint is None


def test_a_text_may_move_and_not_change():
    begun = replace(PLAN, options=Options(text="a.txt", text_digest="x"))
    moved = replace(PLAN, options=Options(text="b.txt", text_digest="x"))
    assert joined(OUT, begun, moved, set()).options.text == "b.txt"


def test_runs_with_nothing_to_show_may_begin_with_other_settings():
    wanted = replace(PLAN, runs=(Run("ft", "ft", {"lr": 0.2}),))
    assert joined(OUT, PLAN, wanted, {"ft"}).runs[0].settings == {"lr": 0.2}
