import fcntl
import json
import multiprocessing
import threading
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraedit.errors import UltraEditError
from ultraedit.service import audit as module
from ultraedit.service.audit import Audit
from ultraedit.service.keys import Keys


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(path):
    return Audit(path)


def numbers(entries):
    return [entry["detail"]["n"] for entry in entries]


def test_an_entry_says_who_changed_what_and_when(audit, path):
    assert audit.read() == []
    audit.write("ada", "team-a", "edit", {"edits": ["a"], "entry": 3})
    audit.write("bob", None, "keys.revoke")
    newest, oldest = audit.read()
    time = datetime.fromisoformat(oldest.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert oldest == {
        "author": "ada", "set": "team-a", "action": "edit",
        "detail": {"edits": ["a"], "entry": 3},
    }  # fmt: skip
    assert (newest["author"], newest["set"], newest["detail"]) == ("bob", None, {})
    assert path.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line) for line in path.read_bytes().splitlines()][1] == newest


def test_newest_first_of_one_set_up_to_a_limit(audit):
    for number in range(6):
        audit.write("ada", "even" if number % 2 == 0 else "odd", "edit", {"n": number})
    assert numbers(audit.read()) == [5, 4, 3, 2, 1, 0]
    assert numbers(audit.read("even")) == [4, 2, 0]
    assert numbers(audit.read("odd", limit=2)) == [5, 3]
    assert audit.read("none") == []
    assert audit.read(limit=0) == []


def test_an_entry_is_on_the_disk_before_the_call_returns(audit, path, monkeypatch):
    synced = []
    plain = module.os.fsync
    monkeypatch.setattr(
        module.os, "fsync", lambda file: synced.append(path.read_bytes()) or plain(file)
    )
    audit.write("ada", "a", "edit", {"n": 1})
    assert len(synced) == 2  # The file, and its name in the folder.
    audit.write("ada", "a", "edit", {"n": 2})
    assert len(synced) == 3
    assert synced[-1] == path.read_bytes()


def test_a_line_that_a_crash_tore_costs_no_other_entry(audit, path):
    audit.write("ada", "a", "edit", {"n": 0})
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole + whole[:end])
        again = Audit(path)
        again.write("ada", "a", "edit", {"n": 1})
        # Only its line's end may be missing of an entry that counts.
        is_whole = end >= len(whole) - 1
        assert numbers(again.read()) == ([1, 0, 0] if is_whole else [1, 0])
        assert path.read_bytes().endswith(b"\n")
        assert b"\n\n" not in path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(
    lines=st.lists(st.text(st.characters(), max_size=12), max_size=8),
    torn=st.binary(max_size=9),
    block=st.integers(1, 40),
)
def test_any_text_comes_back_whatever_the_blocks(tmp_path_factory, lines, torn, block):
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    audit = Audit(path)
    for line in lines:
        audit.write(line, line, line, {line: line})
    with path.open("ab") as stream:
        stream.write(b"{" + torn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = audit.read()
    assert [entry["author"] for entry in found] == lines[::-1]
    assert all(entry["detail"] == {entry["set"]: entry["action"]} for entry in found)


def test_a_key_is_blotted_out(audit, path, tmp_path):
    secret = Keys(tmp_path / "data").create("ada", "reader", ["*"])
    audit.write("ada", "a", "edit", {"prompt": f"my key\n{secret}é", secret: [secret]})
    assert secret[3:] not in path.read_text()
    assert audit.read()[0]["detail"] == {"prompt": "my key\nue-...é", "ue-...": ["ue-..."]}


def test_several_threads_write_whole_lines(audit):
    def work(author):
        for number in range(20):
            audit.write(author, "a", "edit", {"n": number})

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = audit.read(limit=1000)
    assert len(found) == 80
    for i in range(4):
        mine = [entry for entry in found if entry["author"] == f"t{i}"]
        assert numbers(mine) == [*range(19, -1, -1)]


def test_other_processes_wait_while_a_line_is_written(audit, path, monkeypatch):
    plain, refused = module.os.write, []

    def write(descriptor, data):
        with path.open("rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(data)
        return plain(descriptor, data)

    monkeypatch.setattr(module.os, "write", write)
    audit.write("ada", "a", "edit")
    assert len(refused) == 1
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_some(path, author):
    for number in range(15):
        Audit(path).write(author, "a", "edit", {"n": number})


def test_several_processes_write_whole_lines(audit, path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(path, f"p{i}")) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(audit.read(limit=1000)) == 45
    assert len(path.read_bytes().splitlines()) == 45


def test_a_full_disk_is_told_and_the_next_entry_is_whole(audit, path, monkeypatch):
    audit.write("ada", "a", "edit", {"n": 0})
    plain = module.os.write

    def half(descriptor, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return plain(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", half)
        with pytest.raises(UltraEditError, match="No space left"):
            audit.write("ada", "a", "edit", {"n": 1})
    audit.write("ada", "a", "edit", {"n": 2})
    assert numbers(audit.read()) == [2, 0]


def test_foreign_lines_are_skipped(audit, path):
    path.write_bytes(b'5\n[]\nnull\n\xff\n{"set": "a"}\n{}\n')
    assert audit.read("a") == [{"set": "a"}]
