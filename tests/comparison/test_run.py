"""One run: the same as an editor by hand, whatever happens on the way."""

import json
import os

import pytest
import torch

from ultraedit import Editor, InputError, TurnRefusedError, UltraEditError
from ultraedit.comparison.begin import begin
from ultraedit.comparison.folder import read_object
from ultraedit.comparison.prepare import prepare
from ultraedit.comparison.result import Result
from ultraedit.comparison.run import perform
from ultraedit.comparison.turns import TurnLog
from ultraedit.data import read_cases
from ultraedit.models import compute_dtype


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture
def run_of(folder):
    """`run_of(plan, name, **options)`: carried out in this process."""

    def run(plan, name, **options):
        given = {"save_seconds": 0.0, **options}
        return perform(plan, plan.run(name), folder, **given)

    return run


@pytest.fixture
def dies(monkeypatch):
    """`dies(turn, error)`: the editor's process ends in that turn, once."""

    def arm(turn, error):
        plain = Editor.edit

        def edit(self, edits):
            if self.turns == turn:
                monkeypatch.setattr(Editor, "edit", plain)
                raise error
            return plain(self, edits)

        monkeypatch.setattr(Editor, "edit", edit)

    return arm


def by_hand(base, facts, turn_size, **options):
    editor = Editor.from_pretrained(base, **options)
    cases = list(read_cases(facts))
    for start in range(0, len(cases), turn_size):
        editor.edit([case.edit for case in cases[start : start + turn_size]])
    return editor, editor.evaluate(cases)


@pytest.mark.parametrize(("name", "turn_size"), [("ultraedit", 2), ("ft", 2), ("ft-at-once", 7)])
def test_a_run_is_what_an_editor_makes_of_the_edits(
    base, facts, plan_of, run_of, folder, name, turn_size
):
    plan = plan_of(name.removesuffix("-at-once"))
    told = []
    result = run_of(plan, name, on_progress=lambda *event: told.append(event))
    settings = plan.run(name).settings
    editor, report = by_hand(base, facts, turn_size, method=plan.run(name).method, **settings)
    assert result.report.after == report.after
    assert result.report.before == report.before
    assert result.editor["modules"] == editor.modules
    assert result.cost.kept_bytes == editor.method.kept_bytes()
    assert (result.cost.edits, result.cost.turns) == (7, -(-7 // turn_size))
    lines = [json.loads(line) for line in folder.run(name).cases.read_text().splitlines()]
    assert lines == [json.loads(json.dumps(case.to_dict())) for case in report.cases]
    assert Result.of_json(read_object(folder.run(name).result)).report.after == report.after
    assert sum(count for what, count in told if what == "edits") == 7
    assert sum(count for what, count in told if what == "cases") == 7
    assert not folder.run(name).model.exists()


def test_weights_are_rounded_as_they_would_be_saved(
    build, tokenizer, tmp_path, facts, folder, monkeypatch
):
    """A bfloat16 checkpoint that the machine computes in float32."""
    monkeypatch.setattr(compute_dtype, "multiplies_bfloat16", lambda: False)
    half = tmp_path / "half"
    build("llama").to(torch.bfloat16).save_pretrained(half)
    tokenizer.save_pretrained(half)
    plan = prepare(str(half), str(facts), methods=("ft",), turn_size=2, settings={"ft": {}})
    own = folder.run("ft")
    editor, _ = begin(plan, plan.run("ft"), own, TurnLog(own.turns))
    assert editor.model.dtype == torch.float32
    assert {one.stored for one in editor.workbench.masters.values()} == {torch.bfloat16}


def test_what_takes_long_is_told_as_it_goes(plan_of, run_of, write_facts, records):
    facts = write_facts([one | {"subject": one["prompt"].split()[0]} for one in records(2)])
    settings = {"rome": {"prefixes": 0, "steps": 1, "samples": 5000}}
    told = []
    plan = plan_of("rome", file=facts, settings=settings)
    run_of(plan, "rome", on_progress=lambda *event: told.append(event))
    parts = [event for event in told if len(event) == 3]
    ((what, total),) = {(what, total) for what, _, total in parts}
    assert what.startswith("covariance")
    done = [count for _, count, _ in parts]
    assert done[0] == 0
    assert done[-1] == total
    assert done == sorted(done)
    assert any(0 < count < total for count in done)


def test_turns_and_memory_are_measured(plan_of, run_of, folder):
    cost = run_of(plan_of("ultraedit"), "ultraedit").cost
    turns = TurnLog(folder.run("ultraedit").turns).turns
    assert [turn.edits for turn in turns] == [2, 2, 2, 1]
    assert cost.seconds == sum(turn.seconds for turn in turns)
    assert cost.peak_bytes >= max(turn.peak_bytes for turn in turns) > cost.loaded_bytes / 2


def test_the_peak_of_one_turn_is_not_that_of_another(plan_of, run_of, folder, monkeypatch):
    """What saving and evaluating take does not count either."""
    plain = Editor.edit
    held = []

    def edit(self, edits):
        if self.turns == 1:
            held.append(bytearray(os.urandom(1 << 16) * (1 << 12)))
            held.clear()
        return plain(self, edits)

    monkeypatch.setattr(Editor, "edit", edit)
    run_of(plan_of("ultraedit"), "ultraedit")
    peaks = [turn.peak_bytes for turn in TurnLog(folder.run("ultraedit").turns).turns]
    assert peaks[1] > max(peaks[0], *peaks[2:]) + 200_000_000


@pytest.mark.parametrize("name", ["ultraedit", "ft"])
@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
def test_a_killed_run_goes_on_to_the_same_scores(
    plan_of, run_of, folder, tmp_path, dies, name, save_seconds
):
    plan = plan_of(name)
    whole = run_of(plan, name)
    cases = folder.run(name).cases.read_bytes()
    for path in (folder.run(name).result, folder.run(name).cases, folder.run(name).turns):
        path.unlink()
    dies(2, Killed())
    with pytest.raises(Killed):
        run_of(plan, name, save_seconds=save_seconds)
    assert not folder.run(name).result.exists()
    before = TurnLog(folder.run(name).turns).turns
    assert len(before) == 2
    result = run_of(plan, name)
    assert result.report.after == whole.report.after
    assert folder.run(name).cases.read_bytes() == cases
    after = TurnLog(folder.run(name).turns).turns
    assert [turn.edits for turn in after] == [2, 2, 2, 1]
    assert (after[:2] == before) is (save_seconds == 0), "what was not saved was made again"
    assert result.cost.seconds == sum(turn.seconds for turn in after)
    assert result.cost.loaded_bytes == after[0].loaded_bytes


def test_turns_that_were_logged_and_not_saved_are_made_again(plan_of, run_of, folder, dies):
    """Killed between the log and the save."""
    plan = plan_of("ultraedit")
    dies(2, Killed())
    with pytest.raises(Killed):
        run_of(plan, "ultraedit")
    log = TurnLog(folder.run("ultraedit").turns)
    log.append(log.turns[-1])
    result = run_of(plan, "ultraedit")
    assert (result.cost.edits, result.cost.turns) == (7, 4)


def test_a_model_whose_turns_are_lost_is_made_again(plan_of, run_of, folder, dies):
    plan = plan_of("ultraedit")
    dies(2, Killed())
    with pytest.raises(Killed):
        run_of(plan, "ultraedit")
    folder.run("ultraedit").turns.unlink()
    assert run_of(plan, "ultraedit").cost.turns == 4


def test_measurements_outlast_an_interruption_and_no_turn_that_does_not_count(
    plan_of, run_of, folder, monkeypatch, dies
):
    plan, cache = plan_of("ultraedit"), folder.run("ultraedit").cache
    seen = []
    plain = Editor.edit

    def edit(self, edits):
        seen.append(cache.exists())
        cache.mkdir(exist_ok=True)
        return plain(self, edits)

    cache.mkdir(parents=True)
    monkeypatch.setattr(Editor, "edit", edit)
    dies(2, Killed())
    with pytest.raises(Killed):
        run_of(plan, "ultraedit")
    run_of(plan, "ultraedit")
    assert seen == [False, True, True, True]
    assert not cache.exists()


def test_a_stopped_run_has_saved_everything(plan_of, run_of, folder):
    plan = plan_of("ultraedit")
    answers = iter([False, False, True])
    assert run_of(plan, "ultraedit", save_seconds=1e9, stop=lambda: next(answers)) is None
    assert Editor.load(folder.run("ultraedit").model).edits == 4
    told = []
    result = run_of(plan, "ultraedit", on_progress=lambda *event: told.append(event))
    assert told[0] == ("edits", 4)
    assert result.cost.turns == 4


def test_a_killed_evaluation_makes_no_turn_again(plan_of, run_of, folder, monkeypatch):
    plan = plan_of("ultraedit")

    def killed(self, *arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Editor, "evaluate", killed)
        with pytest.raises(Killed):
            run_of(plan, "ultraedit", save_seconds=1e9)
        patch.undo()
    turns = folder.run("ultraedit").turns.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Editor, "edit", killed)
        assert run_of(plan, "ultraedit").report.count == 7
    assert folder.run("ultraedit").turns.read_bytes() == turns


def test_a_refused_turn_leaves_what_was_before_it(plan_of, run_of, folder, dies):
    plan = plan_of("ultraedit")
    dies(3, TurnRefusedError("not finite"))
    with pytest.raises(TurnRefusedError):
        run_of(plan, "ultraedit", save_seconds=1e9)
    assert Editor.load(folder.run("ultraedit").model).edits == 6
    assert run_of(plan, "ultraedit").cost.edits == 7


def test_the_model_stays_where_it_is_wanted(plan_of, run_of, folder):
    run_of(plan_of("ultraedit"), "ultraedit", keep_model=True)
    editor = Editor.load(folder.run("ultraedit").model)
    assert (editor.edits, editor.turns) == (7, 4)


def test_a_file_that_changed_meanwhile_is_refused(plan_of, run_of, facts, records, write_facts):
    plan = plan_of("ultraedit")
    write_facts(records(8))
    with pytest.raises(InputError, match="has changed since"):
        run_of(plan, "ultraedit")


def test_a_limit_and_batches_of_its_own(plan_of, run_of, facts):
    settings = {"ft": {"lr": 0.01, "epochs": 1, "batch_tokens": 96}}
    plan = plan_of("ft", limit=3, settings=settings)
    result = run_of(plan, "ft")
    assert result.cost.edits == 3
    assert result.editor["batch_tokens"] == 96


def test_a_full_disk_is_one_line(plan_of, run_of, folder, monkeypatch):
    def full(self, *arguments, **options):
        raise UltraEditError("cannot write out: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Editor, "save", full)
        with pytest.raises(UltraEditError, match="No space left"):
            run_of(plan_of("ultraedit"), "ultraedit")
    assert not folder.run("ultraedit").result.exists()
