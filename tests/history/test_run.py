"""Going on with a file where a run stopped."""

import pytest

from ultraedit import Edit, Editor, InputError, TurnRefusedError, UltraEditError
from ultraedit.history.run import Progress, resumed, runs_of, write_all


def many(count=14, start=0):
    words = ["paris", "france", "jazz", "guitar", "city", "person", "born"]
    return [
        Edit(f"{words[n % 7]} in {words[n * 3 % 5]} was", words[n * 5 % 7], id=str(n))
        for n in range(start, start + count)
    ]


@pytest.mark.parametrize("save_every", [1, 2])
@pytest.mark.parametrize("lookahead", [1, 3])
@pytest.mark.parametrize("history", ["full", "none"])
@pytest.mark.parametrize("lr", ["auto", 1e-3])
def test_a_run_in_pieces_is_the_run_in_one(
    checkpoint, tmp_path, state, same_state, save_every, history, lr, lookahead
):
    edits = many()
    begun = Progress("f", 3, 14, lookahead=lookahead)
    whole = Editor.from_pretrained(checkpoint, lr=lr, history=history, method="ultraedit")
    write_all(whole, iter(edits), begun, save=lambda: whole.save(tmp_path / "a"))
    out = tmp_path / "b"
    editor = Editor.from_pretrained(checkpoint, lr=lr, history=history, method="ultraedit")
    for stop_after in (1, 2, 1, 9):
        runs = runs_of(editor, out) if out.exists() else []
        progress = resumed(runs, Progress("f", 3, 14, lookahead=0), iter(edits)) if runs else begun
        turns = iter(range(stop_after))
        outcome = write_all(
            editor,
            iter(edits[progress.window_start :]),
            progress,
            save=lambda editor=editor: editor.save(out),
            save_every=save_every,
            stop=lambda turns=turns: next(turns, None) is None,
        )
        assert outcome.turns <= stop_after
        editor = Editor.load(out)
    assert outcome.progress.is_complete
    same_state(state(editor), state(whole))
    assert editor.run["records"] == 14
    again = resumed(runs_of(editor, out), Progress("f", 3, 14, lookahead=0), iter(edits))
    assert again.is_complete


def test_another_file_or_other_turns_are_refused_and_a_grown_file_is_not():
    edits = many(10)
    run = Progress("f", 3, 10).after(edits[:6])
    assert resumed([], Progress("g", 4, 9), iter(edits)) == Progress("g", 4, 9)
    with pytest.raises(InputError, match="turns of 3"):
        resumed([run], Progress("f", 4, 10), iter(edits))
    for other in (edits[1:], edits[:5], many(10, 1), [*edits[:5], Edit("x", "y"), *edits[6:]]):
        with pytest.raises(InputError, match="does not begin with the 6 edits"):
            resumed([run], Progress("f", 3, len(other)), iter(other))
        with pytest.raises(InputError, match="not the file"):
            resumed([run], Progress("g", 3, len(other)), iter(other))
    grown = resumed([run], Progress("f", 3, 20), iter(many(20)))
    assert (grown.records, grown.total) == (6, 20)
    renamed = resumed([run], Progress("h", 3, 10), iter(edits))
    assert renamed.records == 6


def test_a_complete_run_is_not_begun_again():
    done = Progress("f", 3, 6).after(many(6))
    assert resumed([done], Progress("f", 3, 6), iter(many(6))).is_complete
    changed = [*many(5), Edit("x", "y", id="other")]
    for other in (many(4), changed):
        with pytest.raises(InputError, match="without --resume"):
            resumed([done], Progress("f", 3, len(other)), iter(other))
    later = Progress("g", 3, 4).after(many(4, 50))
    assert resumed([later, done], Progress("f", 3, 6), iter(many(6))).is_complete
    assert resumed([done], Progress("g", 2, 4), iter(many(4, 50))) == Progress("g", 2, 4)


def test_an_interrupted_file_is_found_behind_a_later_one(checkpoint, tmp_path):
    out, first, second = tmp_path / "out", many(9), many(4, 50)
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    turns = iter(range(1))
    options = {"save": lambda: editor.save(out)}
    write_all(
        editor, iter(first), Progress("f", 3, 9), stop=lambda: next(turns, None) is None, **options
    )
    write_all(editor, iter(second), Progress("g", 2, 4), **options)
    runs = runs_of(editor, out)
    assert [(run.file, run.records) for run in runs] == [("g", 4), ("f", 3)]
    assert resumed(runs, Progress("f", 3, 9), iter(first)).records == 3
    editor.undo(to=0)
    assert runs_of(editor, out) == []


def test_the_target_the_subject_and_the_id_tell_files_apart():
    one = Progress("f", 3, 1).after([Edit("a", "b", "c", "d")]).digest
    for other in (Edit("a", "b2", "c", "d"), Edit("a", "b", None, "d"), Edit("a", "b", "c")):
        assert Progress("f", 3, 1).after([other]).digest != one


def test_turns_before_a_refused_one_are_saved_and_the_run_goes_on_after_it(
    checkpoint, tmp_path, monkeypatch, state, same_state
):
    edits, out = many(), tmp_path / "out"
    whole = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    write_all(whole, iter(edits), Progress("f", 3, 14), save=None)
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    plain = Editor.edit

    def refused(self, batch):
        if self.turns == 2:
            raise TurnRefusedError("not finite")
        return plain(self, batch)

    monkeypatch.setattr(Editor, "edit", refused)
    outcome = write_all(
        editor, iter(edits), Progress("f", 3, 14), save=lambda: editor.save(out), save_every=5
    )
    assert (outcome.turns, outcome.edits) == (2, 6)
    assert isinstance(outcome.failure, TurnRefusedError)
    monkeypatch.undo()
    again = Editor.load(out)
    progress = resumed(runs_of(again, out), Progress("f", 3, 14), iter(edits))
    assert progress.records == 6
    write_all(again, iter(edits[progress.window_start :]), progress, save=lambda: again.save(out))
    same_state(state(again), state(whole))


def test_a_save_that_fails_ends_the_run(checkpoint):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")

    def full():
        raise UltraEditError("disk full")

    with pytest.raises(UltraEditError, match="disk full"):
        write_all(editor, iter(many()), Progress("f", 3, 14), save=full)
    assert editor.turns == 1


def test_a_window_is_read_ahead_once_and_what_is_done_of_it_is_let_go(checkpoint, monkeypatch):
    editor, edits = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit"), many(14)
    prefix = editor.workbench.passes.prefix
    read, held = [], []
    run = prefix._run

    def counted(batch):
        read.append(sorted(batch.texts))
        return run(batch)

    monkeypatch.setattr(prefix, "_run", counted)
    progress = Progress("f", 2, 14, lookahead=4).after(edits[:4])
    assert (progress.window, progress.window_start) == (8, 0)
    write_all(
        editor, iter(edits), progress, save=None, on_turn=lambda turn: held.append(prefix.bytes)
    )
    assert editor.turns == 5
    texts = [editor.workbench.encoder.encode(e.prompt, e.target).ids[:-1] for e in edits]
    windows = [sorted(set(texts[:8])), sorted(set(texts[8:]))]
    # The first turn reads text of the model's own as well, and checks its short cuts on a text.
    assert [batch for batch in read if set(batch) & set(texts) and len(batch) > 2] == windows
    assert held[0] > held[1] == 0
    assert held[-1] == 0


def test_the_lookahead_is_that_of_the_run(checkpoint):
    edits = many(10)
    run = Progress("f", 3, 10, lookahead=2).after(edits[:6])
    assert resumed([run], Progress("f", 3, 10, lookahead=0), iter(edits)).lookahead == 2
    with pytest.raises(InputError, match="lookahead of 2 turns"):
        resumed([run], Progress("f", 3, 10, lookahead=5), iter(edits))
    assert resumed([], Progress("f", 100, 10, lookahead=0), iter(edits)).lookahead == 10
    assert resumed([], Progress("f", 5000, 10, lookahead=0), iter(edits)).lookahead == 1
    # Before there was one, every turn was read by itself.
    old = {k: v for k, v in run.to_json().items() if k != "lookahead"}
    assert Progress.of_json(old).lookahead == 1
