"""The database: whole or refused, whatever was done to it."""

import dataclasses
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
import torch

from ultraedit.errors import InputError, UltraEditError
from ultraedit.linalg.shift import Dense, LowRank
from ultraedit.storage import (
    Change,
    EditRecord,
    Entry,
    Layout,
    Update,
    is_edited_model,
    now,
    open_journal,
    read,
    read_factors,
    read_snapshot,
    settle,
)
from ultraedit.storage import (
    journal as journal_module,
)
from unrecorded import write

PROMPT = "Who wrote „Faust“? 浮士德"


class Book:
    """An OUT with a journal, one turn after another."""

    def __init__(self, out, editing, model, tokenizer):
        self.out, self.editing, self.model, self.tokenizer = out, editing, model, tokenizer
        self.digest = None

    def turn(self, **options):
        snapshot = self.editing.turn()
        number = snapshot.version
        edits = (
            EditRecord(f"id{number}", PROMPT, ("Goethe", "J. W. Goethe"), None, True),
            EditRecord("", "b", "c", "d", False),
        )
        change = Change(
            Entry("turn", now(), "ada", number, 2 * number, 1, 0.5, records=edits),
            [
                {"a.b": LowRank(torch.randn(3, 4), torch.randn(3, 2), torch.tensor([0, 1, 1]))},
                {"a/c": Dense(torch.randn(4, 2))},
            ],
            {"mean": torch.randn(3, dtype=torch.float64)},
        )
        about = {"base": {"name": "x", "revision": None}, "weights": {}}
        update = Update(
            [change], "ada", {"start": torch.ones(2)}, about, follows=self.digest, **options
        )
        write(
            self.out, snapshot, model=self.model, tokenizer=self.tokenizer, source=None,
            update=update,
        )  # fmt: skip
        with open_journal(self.out) as journal:
            self.digest = journal.head_digest()
        return change


@pytest.fixture
def book(build, session, modules, tokenizer, tmp_path):
    model = build("llama").bfloat16()
    return Book(tmp_path / "out", session(model, modules["llama"]), model, tokenizer)


def test_what_is_written_is_what_is_read(book):
    changes = [book.turn() for _ in range(3)]
    layout = Layout(book.out)
    with open_journal(book.out) as journal:
        journal.verify()
        entries = list(journal.entries())
        assert [entry.number for entry in entries] == [0, 1, 2, 3]
        assert entries[0].kind == "start"
        assert journal.find("id2") == [(2, 0)]
        assert journal.find("2-2") == [(2, 1)], "an edit without an id gets one"
        assert journal.head().number == 3
    for change, entry in zip(changes, entries[1:], strict=True):
        assert entry.records[0] == change.entry.records[0]
        assert entry.records[0].target == ("Goethe", "J. W. Goethe")
        same = {f.name: None for f in dataclasses.fields(Entry)}.keys() - {
            "records", "number", "factors", "snapshot", "written",
        }  # fmt: skip
        assert all(getattr(entry, name) == getattr(change.entry, name) for name in same)
        shifts, state = read_factors(layout.history, entry.factors)
        assert [list(one) for one in shifts] == [["a.b"], ["a/c"]]
        assert torch.equal(shifts[0]["a.b"].right, change.shifts[0]["a.b"].right)
        assert torch.equal(shifts[0]["a.b"].edit_index, change.shifts[0]["a.b"].edit_index)
        assert torch.equal(shifts[1]["a/c"].delta, change.shifts[1]["a/c"].delta)
        assert torch.equal(state["mean"], change.state["mean"])
    masters, state = read_snapshot(layout.history, entries[0].snapshot)
    assert masters == {}
    assert torch.equal(state["start"], torch.ones(2))


def test_a_turn_touches_only_its_own_files(book):
    book.turn()
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in book.out.rglob("*.safetensors")}
    book.turn()
    lasting = [
        p for p in before if "history" in str(p) or p.name.startswith(("model-base", "orig"))
    ]
    assert len(lasting) >= 4
    assert all((p.stat().st_ino, p.stat().st_mtime_ns) == before[p] for p in lasting)
    assert not list(book.out.rglob("journal.db-*")), "nothing of SQLite's is left beside it"


def whole(out):
    """Every word of a journal and what it refers to, checked."""
    with open_journal(out) as journal:
        journal.verify()
        head = journal.head()
        entries = list(journal.entries())
    for entry in entries:
        if entry.factors:
            read_factors(Layout(out).history, entry.factors)
        if entry.snapshot:
            read_snapshot(Layout(out).history, entry.snapshot)
    return head, entries, read(out).settings


def test_a_flipped_bit_is_noticed_or_means_nothing(book, generator):
    for _ in range(3):
        book.turn()
    expected = whole(book.out)
    path = Layout(book.out).journal
    content = path.read_bytes()
    noticed = 0
    for spot in torch.randint(len(content), (150,), generator=generator).tolist():
        altered = bytearray(content)
        altered[spot] ^= 1 << (spot % 8)
        path.write_bytes(altered)
        error = None
        try:
            found = whole(book.out)
        except InputError as caught:
            error = str(caught)
        if error is None:
            assert found == expected, f"byte {spot}"
        else:
            noticed += 1
            assert "journal.db" in error
            assert "\n" not in error
        for side in book.out.rglob("journal.db-*"):
            side.unlink()
    assert noticed > 20


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_journal_is_named_by_readers_and_writers(book, share):
    for _ in range(2):
        book.turn()
    path = Layout(book.out).journal
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for action in (lambda: whole(book.out), lambda: read(book.out), book.turn):
        with pytest.raises(InputError, match=r"journal\.db"):
            action()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE edits SET record = replace(record, 'Goethe', 'Schiller')",
        "DELETE FROM edits WHERE entry = 1",
        "UPDATE entries SET body = replace(body, 'ada', 'eve')",
        "DELETE FROM entries WHERE number = 2",
        "UPDATE entries SET digest = 'x' WHERE number = 3",
        "UPDATE head SET body = replace(body, 'v00000003', 'v00000002')",
        "DELETE FROM head",
        "DROP TABLE edits",
        'INSERT INTO edits VALUES (2, 7, \'["x","x","x",null,null]\')',
    ],
)
def test_words_changed_behind_its_back_are_noticed(book, statement):
    for _ in range(3):
        book.turn()
    with closing(sqlite3.connect(Layout(book.out).journal)) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(InputError, match=r"journal\.db"):
        whole(book.out)


@pytest.mark.parametrize("what", ["factors", "snapshot"])
def test_a_damaged_file_of_the_history_is_named(book, what):
    for _ in range(2):
        book.turn(snapshot_every=1)
    path = Layout(book.out).history_file(2, what)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:100], b"", bytes([content[0] ^ 1]) + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=path.name):
            whole(book.out)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} is missing"):
        whole(book.out)


def test_a_later_format_is_refused(book, monkeypatch):
    monkeypatch.setattr(journal_module, "FORMAT", 1)
    book.turn()
    with open_journal(book.out) as journal:
        head = dataclasses.replace(journal.head(), format=2)
        journal.append([], head)
    with pytest.raises(InputError, match="format 2.*update ultraedit"):
        read(book.out)


def test_a_full_database_is_one_line_and_the_version_before(
    book, monkeypatch, assert_same_snapshot
):
    book.turn()
    plain = journal_module.connect

    def full(path):
        connection = plain(path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(journal_module, "connect", full)
    error = None
    while error is None:
        before = {p: p.read_bytes() for p in book.out.rglob("*") if p.is_file()}
        version = read(book.out)
        try:
            book.turn()
        except UltraEditError as caught:
            error = str(caught)
    assert "full" in error
    monkeypatch.undo()
    assert_same_snapshot(read(book.out), version)
    assert {p: p.read_bytes() for p in book.out.rglob("*") if p.is_file()} == before
    whole(book.out)


def test_a_journal_that_moved_on_is_not_overwritten(book):
    book.turn()
    digest = book.digest
    book.turn()
    book.digest = digest
    with pytest.raises(UltraEditError, match="changed by another process"):
        book.turn()
    whole(book.out)


def test_a_writer_that_says_nothing_of_its_change_leaves_a_gap(book, assert_same_snapshot):
    book.turn()
    snapshot = book.editing.turn()
    write(book.out, snapshot, model=book.model, tokenizer=book.tokenizer, source=None)
    with open_journal(book.out) as journal:
        assert [entry.kind for entry in journal.entries()] == ["start", "turn", "gap"]
        assert journal.head().keep == 0
    assert_same_snapshot(read(book.out), snapshot)


def test_a_folder_of_an_earlier_release_begins_a_journal(book, without_journal):
    write(book.out, book.editing.turn(), model=book.model, tokenizer=book.tokenizer, source=None)
    old = without_journal(book.out)
    read(book.out)
    book.turn()
    assert not old.exists()
    assert whole(book.out)[0].number == 1


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_cannot_be_written_can_be_read(book):
    book.turn()
    internal = Layout(book.out).internal
    for path in (internal, book.out, Layout(book.out).journal):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert whole(book.out)[0].number == 1
    finally:
        for path in (book.out, internal):
            path.chmod(0o755)


def test_side_files_of_a_deleted_journal_are_not_taken_for_a_new_ones(book, tmp_path):
    book.turn()
    layout = Layout(book.out)
    holder = sqlite3.connect(layout.journal)
    holder.execute("SELECT * FROM head").fetchone()
    book.turn()
    wal = layout.journal.with_name("journal.db-wal")
    assert wal.is_file()
    shutil.copy(wal, tmp_path / "wal")
    holder.close()
    layout.journal.unlink()
    shutil.copy(tmp_path / "wal", wal)
    assert not is_edited_model(book.out)
    shutil.rmtree(layout.history)
    book.digest = None
    (layout.internal / "unfinished").touch()
    book.turn()
    assert whole(book.out)[0].number == 1


def test_the_index_follows_the_commit(book, opened):
    book.turn()
    index = Layout(book.out).index
    behind = index.read_bytes()
    book.turn()
    served = read(book.out).served
    index.write_bytes(behind.replace(b"v00000001", b"v00000002").replace(b"edited", b"edited"))
    settle(book.out)
    loaded = opened(book.out).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in served.items())
