import time

import pytest

from ultraedit import Edit, UltraEditError
from ultraedit.service.audit import Audit
from ultraedit.service.errors import ApiError
from ultraedit.service.promote import finish, promote
from ultraedit.service.sets import Sets
from ultraedit.service.turns import Guard, Job, Turns, undo
from ultraedit.storage import open_journal

FRANCE = Edit("the capital of france is", "guitar", id="a")
JAZZ = Edit("who plays jazz", "paris", id="b")
CITY = Edit("where in city", "born", id="c")


class Workshop:
    """Sets and the thread that edits them, in the same folder every time."""

    def __init__(self, base, home):
        self.base, self.home = base, home
        self.start()

    def start(self):
        self.sets = Sets(self.home / "sets", self.base, anchors=48, chat="off")
        self.audit = Audit(self.home / "audit.jsonl")
        self.turns = Turns(self.sets, self.audit)

    def restart(self):
        assert self.turns.close(60)
        self.start()

    def submit(self, *jobs):
        """Jobs that come together, at their ends."""
        found = [self.turns.submit(job) for job in jobs]
        for job in found:
            while job.finished is None:
                time.sleep(0.01)
        return found

    def entries(self, name):
        with open_journal(self.sets.get(name).out) as journal:
            return list(journal.entries(1))


@pytest.fixture
def workshop(base, tmp_path):
    found = Workshop(base, tmp_path)
    found.sets.create("team-a")
    yield found
    assert found.turns.close(60)


def test_edits_that_come_together_are_one_turn(workshop):
    jobs = workshop.submit(
        Job("team-a", "ann", (FRANCE,)), Job("team-a", "bob", (JAZZ,), key="k"),
        Job("team-a", "ann", (Edit(FRANCE.prompt, "jazz", id="d"),)),
    )  # fmt: skip
    assert [job.status for job in jobs] == ["done"] * 3
    # The third answers the first one's prompt in another way: it has to be the later turn.
    assert [job.entry for job in jobs] == [1, 1, 2]
    assert [one["id"] for one in jobs[1].results] == ["b"]
    first, second = workshop.entries("team-a")
    assert (first.author, [one.id for one in first.records]) == ("ann, bob", ["a", "b"])
    assert first.note["jobs"] == [
        {"author": "ann", "key": None, "edits": 1}, {"author": "bob", "key": "k", "edits": 1}
    ]  # fmt: skip
    assert 0 <= first.note["agreement"] <= 1
    assert [one.id for one in second.records] == ["d"]
    audited = workshop.audit.read("team-a", 10)
    assert [(one["author"], one["action"]) for one in audited] == [
        ("ann", "edit"), ("bob", "edit"), ("ann", "edit")
    ]  # fmt: skip


def test_a_key_names_one_request_for_good(workshop):
    (first,) = workshop.submit(Job("team-a", "ann", (FRANCE,), key="k"))
    assert workshop.turns.submit(Job("team-a", "ann", (FRANCE,), key="k")) is first
    with pytest.raises(ApiError, match="other edits") as caught:
        workshop.turns.submit(Job("team-a", "ann", (JAZZ,), key="k"))
    assert caught.value.status == 409
    # Another author's key is another key.
    (other,) = workshop.submit(Job("team-a", "bob", (JAZZ,), key="k"))
    assert other.entry == 2
    workshop.restart()
    again = workshop.turns.submit(Job("team-a", "ann", (FRANCE,), key="k"))
    assert (again.status, again.entry, again.results[0]["id"]) == ("done", 1, "a")
    assert len(workshop.entries("team-a")) == 2
    (third,) = workshop.submit(Job("team-a", "ann", (CITY,), key="l"))
    workshop.turns._jobs.clear()
    workshop.turns._by_key.clear()
    assert workshop.turns.submit(Job("team-a", "ann", (CITY,), key="l")).entry == third.entry


def test_a_key_of_a_deleted_set_is_none_of_the_next_one_by_its_name(workshop):
    workshop.submit(Job("team-a", "ann", (FRANCE,), key="k"))
    workshop.submit(Job("team-a", "ann", work=lambda: workshop.turns.delete("team-a")))
    workshop.sets.create("team-a")
    (job,) = workshop.submit(Job("team-a", "ann", (JAZZ,), key="k"))
    assert (job.status, job.entry) == ("done", 1)
    assert [one.id for one in workshop.entries("team-a")[0].records] == ["b"]


def test_what_the_disk_refused_can_be_asked_again_with_its_key(workshop, caplog):
    out = workshop.sets.get("team-a").out
    stray = out / "stray"
    out.mkdir()
    stray.touch()
    (job,) = workshop.submit(Job("team-a", "ann", (FRANCE,), key="k"))
    assert (job.status, job.error.status) == ("failed", 500)
    # Which file it was is for the log alone.
    assert str(out) in caplog.text
    assert str(out) not in str(job.error)
    stray.unlink()
    (job,) = workshop.submit(Job("team-a", "ann", (FRANCE,), key="k"))
    assert (job.status, job.entry) == ("done", 1)


def test_a_turn_that_is_refused_leaves_the_set_as_it_was(workshop, monkeypatch):
    workshop.submit(Job("team-a", "ann", (FRANCE,)))
    before = workshop.sets.overlay("team-a")
    strict = Guard(("who plays jazz", "where in city"), 1.0)
    editor = workshop.sets.editor("team-a")
    (job,) = workshop.submit(Job("team-a", "ann", (JAZZ,), guard=strict))
    assert (job.status, job.entry, job.error.status, job.error.code) == (
        "refused", None, 409, "guard",
    )  # fmt: skip
    assert "of 2 probes" in str(job.error)
    assert workshop.sets.overlay("team-a") is before
    assert workshop.sets.editor("team-a") is not editor
    assert len(workshop.entries("team-a")) == 1
    # It is told what became of it all the same.
    assert job.results[0]["learned"] is True
    (job,) = workshop.submit(Job("team-a", "ann", (JAZZ,), guard=Guard(strict.probes, 0.0)))
    assert (job.status, job.entry) == ("done", 2)


def test_a_turn_has_to_be_learned_where_that_is_asked(workshop, monkeypatch):
    made = workshop.sets.editor("team-a")
    plain = made.workbench.score

    def poor(texts):
        scored = plain(texts)
        for one in scored:
            one.correct[:] = False
        return scored

    monkeypatch.setattr(made.workbench, "score", poor)
    (job,) = workshop.submit(Job("team-a", "ann", (JAZZ,), require_learned=True))
    assert (job.status, job.error.code) == ("refused", "not_learned")
    assert not workshop.sets.get("team-a").out.exists()
    (job,) = workshop.submit(Job("team-a", "ann", (JAZZ,), require_learned=True))
    assert (job.status, job.results[0]["learned"]) == ("done", True)


def test_what_fails_behind_the_edit_takes_the_edit_with_it(workshop, monkeypatch):
    def fails(*_):
        raise UltraEditError("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr("ultraedit.service.turns.agreement", fails)
        (job,) = workshop.submit(Job("team-a", "ann", (FRANCE,)))
    assert (job.status, job.error.status) == ("failed", 500)
    (job,) = workshop.submit(Job("team-a", "ann", (JAZZ,)))
    assert (job.status, job.entry) == ("done", 1)
    assert [one.id for one in workshop.entries("team-a")[0].records] == ["b"]


def test_what_is_saved_counts_even_if_the_audit_log_is_full(workshop, monkeypatch, caplog):
    def full(*_):
        raise UltraEditError("no space left")

    monkeypatch.setattr(workshop.audit, "write", full)
    (job,) = workshop.submit(Job("team-a", "ann", (FRANCE,)))
    assert (job.status, job.entry) == ("done", 1)
    assert "no space left" in caplog.text


def test_a_wrong_edit_fails_alone(workshop):
    too_long = Edit("who " * 90, "paris", id="long")
    jobs = workshop.submit(
        Job("team-a", "ann", (FRANCE,)), Job("team-a", "bob", (too_long,)),
        Job("team-a", "ann", (JAZZ,)),
    )  # fmt: skip
    assert [job.status for job in jobs] == ["done", "failed", "done"]
    assert jobs[1].error.status == 400
    assert "tokens long" in str(jobs[1].error)


def test_an_undo_reaches_the_overlay_and_survives_a_restart(workshop):
    workshop.submit(Job("team-a", "ann", (FRANCE, JAZZ)))
    one = workshop.sets.overlay("team-a")
    undo(workshop.sets, workshop.audit, "team-a", "bob", edit="a")
    assert workshop.sets.overlay("team-a") is not one
    undo(workshop.sets, workshop.audit, "team-a", "bob", to=0)
    assert workshop.sets.overlay("team-a").rank == 0
    assert workshop.entries("team-a")[-1].author == "bob"
    workshop.restart()
    assert workshop.sets.overlay("team-a").rank == 0
    (job,) = workshop.submit(Job("team-a", "ann", (CITY,)))
    assert job.entry == 4


def test_promotion_moves_edits_down_even_if_it_is_interrupted(workshop, monkeypatch):
    workshop.submit(Job("team-a", "ann", (FRANCE, JAZZ)))
    sets, audit = workshop.sets, workshop.audit
    with monkeypatch.context() as patched:
        patched.setattr("ultraedit.service.promote.undo", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote(sets, audit, "team-a", "base", "root")
    assert sets.describe("team-a")["edits"] == sets.describe("base")["edits"] == 2
    workshop.restart()
    finish(workshop.sets, workshop.audit)
    assert workshop.sets.describe("team-a")["edits"] == 0
    assert [one.id for one in workshop.entries("base")[0].records] == ["a", "b"]
    finish(workshop.sets, workshop.audit)
    assert len(workshop.entries("base")) == 1
    with pytest.raises(ApiError, match="no edits to promote"):
        promote(workshop.sets, workshop.audit, "team-a", "base", "root")
