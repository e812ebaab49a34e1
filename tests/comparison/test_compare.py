"""The order of things over several runs, each carried out in this process."""

import json

import pytest

from ultraedit import InputError, UltraEditError
from ultraedit.comparison.compare import compare
from ultraedit.comparison.folder import Folder, read_object
from ultraedit.comparison.plan import Plan
from ultraedit.comparison.process import Ended
from ultraedit.comparison.run import perform


@pytest.fixture
def inside(monkeypatch):
    """Runs are carried out here; the list says which, and `fails` what becomes of them."""

    class Inside:
        def __init__(self):
            self.begun = []
            self.fails = {}

        def __call__(self, folder, run, *, save_seconds, keep_model, on_progress):
            self.begun.append(run.name)
            plan = Plan.of_json(read_object(folder.summary)["plan"])
            folder.run(run.name).path.mkdir(parents=True, exist_ok=True)
            if run.name in self.fails:
                return self.fails[run.name]
            perform(
                plan,
                plan.run(run.name),
                folder,
                save_seconds=save_seconds,
                keep_model=keep_model,
                on_progress=on_progress,
            )
            return Ended("done")

    one = Inside()
    monkeypatch.setattr("ultraedit.comparison.compare.carry_out", one)
    return one


def content(folder):
    return json.loads(folder.summary.read_text())


def states(folder):
    return {run["name"]: run["state"] for run in content(folder)["runs"]}


def test_every_method_starts_from_the_same_base(inside, plan_of, folder, tmp_path):
    outcome = compare(folder, plan_of("ft", "ultraedit"), command="this")
    assert inside.begun == ["ft", "ft-at-once", "ultraedit"]
    alone = Folder(tmp_path / "alone")
    compare(alone, plan_of("ultraedit"))
    results = outcome.comparison.results
    both = [folder.run("ultraedit").cases, alone.run("ultraedit").cases]
    assert both[0].read_bytes() == both[1].read_bytes()
    assert len({str(result.report.before) for result in results.values()}) == 1
    assert states(folder) == dict.fromkeys(inside.begun[:3], "done")
    assert "this" in folder.page.read_text()
    assert folder.picture.read_text().startswith("<?xml")
    assert not outcome.failed
    assert not outcome.interrupted


def test_the_summary_is_finite_json_and_has_it_all(inside, plan_of, folder):
    outcome = compare(folder, plan_of("ft"), command="this")
    found = content(folder)
    assert found == json.loads(json.dumps(outcome.comparison.to_json(), allow_nan=False))
    assert found["commands"] == ["this"]
    assert found["plan"]["edits"] == 7
    assert found["unedited"]["scores"]["locality"]["agreement"] == 1
    first, second = found["runs"]
    assert (first["at_once"], second["at_once"]) == (False, True)
    assert first["cost"]["seconds_per_edit"] == pytest.approx(first["cost"]["seconds"] / 7)
    assert first["machine"]["dtype"] == "float32"


def test_what_is_done_is_not_done_again(inside, plan_of, folder):
    compare(folder, plan_of("ft"), command="one")
    files = {path: path.read_bytes() for path in folder.out.rglob("*") if path.is_file()}
    compare(folder, plan_of("ft"), command="two")
    assert inside.begun == ["ft", "ft-at-once"]
    assert files == {path: path.read_bytes() for path in folder.out.rglob("*") if path.is_file()}


def test_methods_are_added_later(inside, plan_of, folder):
    compare(folder, plan_of("ft", at_once=False), command="one")
    compare(folder, plan_of("ultraedit"), command="two")
    assert inside.begun == ["ft", "ultraedit"]
    assert states(folder) == {"ft": "done", "ultraedit": "done"}
    page = folder.page.read_text()
    assert "| ft |" in page
    assert "| ultraedit |" in page
    assert "one\ntwo" in page


def test_a_failed_run_leaves_the_others_and_is_tried_again(inside, plan_of, folder):
    inside.fails["ft"] = Ended("failed", "it is not finite")
    outcome = compare(folder, plan_of("ft", "ultraedit", at_once=False))
    assert [run.name for run in outcome.failed] == ["ft"]
    assert states(folder) == {"ft": "failed", "ultraedit": "done"}
    assert "failed: it is not finite" in folder.page.read_text()
    compare(folder, plan_of("ultraedit"))
    assert states(folder)["ft"] == "failed", "it stays in the table"
    inside.fails.clear()
    outcome = compare(folder, plan_of("ft", "ultraedit", at_once=False))
    assert inside.begun == ["ft", "ultraedit", "ft"]
    assert not outcome.failed
    assert states(folder) == {"ft": "done", "ultraedit": "done"}


def test_a_failed_run_may_begin_anew_with_other_settings(inside, plan_of, folder):
    inside.fails["ft"] = Ended("failed", "no")
    compare(folder, plan_of("ft", at_once=False))
    (folder.run("ft").path / "left").write_text("")
    inside.fails.clear()
    other = plan_of("ft", at_once=False, settings={"ft": {"lr": 0.02, "epochs": 1}})
    compare(folder, other)
    assert states(folder) == {"ft": "done"}
    assert not (folder.run("ft").path / "left").exists()
    with pytest.raises(InputError, match="epochs=1, lr=0.02 for ft"):
        compare(folder, plan_of("ft", at_once=False))


def test_an_interrupt_ends_the_comparison_and_leaves_what_is_there(inside, plan_of, folder):
    inside.fails["ft"] = Ended("stopped", interrupted=True)
    outcome = compare(folder, plan_of("ultraedit", "ft"))
    assert outcome.interrupted
    assert inside.begun == ["ultraedit", "ft"]
    assert states(folder) == {"ultraedit": "done", "ft": "unfinished", "ft-at-once": "unfinished"}
    assert "not finished" in folder.page.read_text()
    inside.fails.clear()
    assert not compare(folder, plan_of("ultraedit", "ft")).interrupted
    assert inside.begun == ["ultraedit", "ft", "ft", "ft-at-once"]


def test_an_interrupt_in_the_last_run_that_is_done_ends_nothing(inside, plan_of, folder):
    plain = inside.__class__.__call__

    def interrupted(self, *arguments, **options):
        plain(self, *arguments, **options)
        return Ended("done", interrupted=True)

    inside.__class__.__call__ = interrupted
    assert not compare(folder, plan_of("ultraedit")).interrupted


def test_something_else_is_refused_and_changes_nothing(
    inside, plan_of, folder, records, write_facts
):
    compare(folder, plan_of("ultraedit"))
    before = folder.summary.read_bytes()
    changed = records()
    changed[0]["target"] = "city"
    other = write_facts(changed, "other.jsonl")
    for wanted, words in (
        (plan_of("ultraedit", turn_size=3), "turns of 2, not of 3"),
        (plan_of("ultraedit", file=other), "other records"),
        (plan_of("ultraedit", limit=3), "7 edits"),
    ):
        with pytest.raises(InputError, match=words):
            compare(folder, wanted)
    assert folder.summary.read_bytes() == before
    assert inside.begun == ["ultraedit"]


def test_damage_is_named(inside, plan_of, folder):
    compare(folder, plan_of("ultraedit"))
    result = folder.run("ultraedit").result
    result.write_text('{"name": "ultraedit"}')
    with pytest.raises(InputError, match="ultraedit/result.json is damaged"):
        compare(folder, plan_of("ultraedit"))
    folder.summary.write_text('{"plan": {}}')
    with pytest.raises(InputError, match="comparison.json is damaged"):
        compare(folder, plan_of("ultraedit"))


def test_a_full_disk_is_one_line_and_loses_nothing(inside, plan_of, folder, monkeypatch):
    compare(folder, plan_of("ultraedit"))
    before = folder.summary.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ultraedit.comparison.folder.write_file", full)
        with pytest.raises(UltraEditError, match="cannot write .*No space left"):
            compare(folder, plan_of("ultraedit", "ft"))
    assert folder.summary.read_bytes() == before
