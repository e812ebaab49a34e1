"""Whatever stops a write, and wherever, OUT is a whole version to every reader."""

import builtins
import errno
import os
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ultraedit.errors import UltraEditError
from ultraedit.linalg.shift import LowRank
from ultraedit.storage import (
    Change,
    Entry,
    Layout,
    Update,
    is_edited_model,
    lock,
    now,
    open_journal,
    read,
)
from ultraedit.storage.atomic import Measured
from unrecorded import write

CHANGES = ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir", "fsync")


class Death(BaseException):
    """The process is no more: not an Exception, so that no handler of errors takes it."""


@contextmanager
def calls(monkeypatch, at, failure, then_dead):
    """Every change of the disk counted; the one numbered `at` fails.

    `then_dead` makes all later ones fail too, as a dead process does not tidy up.
    """
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == at or (then_dead and at is not None and count > at):
                raise failure()
            return function(*args, **kwargs)

        return call

    def opened(*args, **kwargs):
        mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
        return (writing if set(mode) & set("wax+") else plain)(*args, **kwargs)

    plain = builtins.open
    writing = counted(plain)
    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(builtins, "open", opened)
        yield lambda: count


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Story:
    """A first write and three ways to go on, each from a fresh OUT."""

    def __init__(self, build, session, modules, tokenizer, tmp_path):
        self.model = build("llama", vocab_size=320).bfloat16()
        self.model.save_pretrained(tmp_path / "model", max_shard_size="30KB")
        self.tokenizer, self.root, self.number = tokenizer, tmp_path, 0
        self.journals = set()
        editing = session(self.model, modules["llama"])
        self.first, self.second = editing.turn(), editing.turn()
        more = [*modules["llama"], "model.layers.3.mlp.down_proj.weight"]
        self.wider = session(
            self.model,
            more,
            originals={
                **self.first.originals,
                more[-1]: self.model.get_parameter(more[-1]).detach().clone(),
            },
        ).turn()
        self.write(tmp_path / "begun", self.first, tmp_path / "model")
        self.journals = {tmp_path / "journalled"}
        self.write(tmp_path / "journalled", self.first, tmp_path / "model")

    def serve(self, snapshot):
        """Put a snapshot's weights into the model."""
        with torch.no_grad():
            for name, weight in {**self.wider.originals, **snapshot.served}.items():
                self.model.get_parameter(name).copy_(weight)

    def write(self, out, snapshot, source):
        self.serve(snapshot)
        write(
            out,
            snapshot,
            model=self.model,
            tokenizer=self.tokenizer,
            source=source,
            update=self.update(out, snapshot.version) if out in self.journals else None,
        )

    def update(self, out, version):
        """A turn of two edits, as the journal records it."""
        shift = LowRank(torch.randn(3, 56), torch.randn(3, 32), torch.tensor([0, 0, 1]))
        turn = Change(
            Entry("turn", now(), "tester", version, 2 * version),
            [{"model.layers.1.mlp.down_proj": shift}],
            {"mean": torch.randn(7)},
        )
        follows = None
        if Layout(out).journal.exists():
            with open_journal(out) as journal:
                journal.verify()
                follows = journal.head_digest()
        about = {"base": {"name": "model"}, "weights": {}}
        return Update([turn], "tester", {}, about, snapshot_every=1, follows=follows)

    def start(self, kind):
        """A fresh OUT, what it holds, and the next write into it."""
        self.number += 1
        out, model = self.root / f"out{self.number}", self.root / "model"
        if kind == "first write":
            return out, None, self.first, model
        if kind == "first write without a source":
            return out, None, self.first, None
        if "journal" in kind:
            self.journals.add(out)
        if kind == "first write with a journal":
            return out, None, self.first, model
        shutil.copytree(self.root / ("journalled" if "journal" in kind else "begun"), out)
        return out, self.first, self.second, model


KINDS = [
    "first write",
    "first write without a source",
    "first write with a journal",
    "further turn",
    "further turn with a journal",
]


@pytest.fixture
def story(build, session, modules, tokenizer, tmp_path):
    return Story(build, session, modules, tokenizer, tmp_path)


@pytest.fixture
def check(story, assert_serves, assert_same_snapshot, opened):
    """`check(out, old, new)`: both readers find a whole version; returns read's."""

    def check(out, old, new):
        if old is None and not is_edited_model(out):
            return None
        found = read(out)
        version = new if found.version == new.version and found.settings == new.settings else old
        assert_same_snapshot(found, version)
        served = opened(out).state_dict()
        whole = [
            snapshot
            for snapshot in (old, new)
            if snapshot is not None
            and all(
                torch.equal(served[name], weight)
                for name, weight in {**story.wider.originals, **snapshot.served}.items()
            )
        ]
        assert len(whole) == 1
        if set(new.served) == set((old or new).served):
            # Loaders that read no index take what they find.
            tensors = [key for path in out.glob("model*.safetensors") for key in load_file(path)]
            assert sorted(tensors) == sorted(set(tensors))
        return version

    return check


def count_calls(story, monkeypatch, kind):
    """How often a write that succeeds changes the disk, and how many files it leaves."""
    out, _, new, source = story.start(kind)
    with calls(monkeypatch, None, Death, False) as count:
        story.write(out, new, source)
        return count(), len(list(out.rglob("*")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_any_point_leaves_a_whole_version_and_the_next_write_cleans_up(
    story, check, monkeypatch, kind, assert_serves
):
    total, files = count_calls(story, monkeypatch, kind)
    assert total > 15
    seen = set()
    for at in range(1, total + 1):
        out, old, new, source = story.start(kind)
        with calls(monkeypatch, at, Death, True), pytest.raises(Death):
            story.write(out, new, source)
        found = check(out, old, new)
        seen.add(None if found is None else found.version)
        story.write(out, new, source)
        assert check(out, old, new) is new
        # The journal keeps a turn that counted before the crash, and then the one after it.
        if not (out in story.journals and found is new):
            assert len(list(out.rglob("*"))) == files
        if at % 10 == 0:
            assert_serves(out, story.model)
    assert new.version in seen
    assert (None if old is None else old.version) in seen


@pytest.mark.parametrize("kind", ["further turn", "further turn with a journal"])
def test_a_crash_while_the_next_write_cleans_up_leaves_a_whole_version_too(
    story, check, monkeypatch, kind
):
    def die(*_):
        raise Death

    total, _ = count_calls(story, monkeypatch, kind)
    for at in range(total - 25, total + 1):
        out, old, new, source = story.start(kind)
        with calls(monkeypatch, at, Death, True), pytest.raises(Death):
            story.write(out, new, source)
        with monkeypatch.context() as patch:
            patch.setattr(Measured, "write", die)
            with pytest.raises(Death):
                story.write(out, new, source)
        check(out, old, new)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_line_and_leaves_the_version_before(story, check, monkeypatch, kind):
    total, _ = count_calls(story, monkeypatch, kind)
    refused = 0
    for at in range(1, total + 1):
        out, old, new, source = story.start(kind)
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} if old else {}
        error = None
        with calls(monkeypatch, at, no_space, False):
            try:
                story.write(out, new, source)
            except UltraEditError as caught:
                error = str(caught)
        if error is None:
            # A link that was refused became a copy, or an old file could not be deleted.
            assert check(out, old, new) is new
        else:
            refused += 1
            assert "No space left on device" in error
            assert str(out) in error
            assert "\n" not in error
            if check(out, old, new) is old and "further turn" in kind:
                assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
            assert not [p for p in out.rglob(".tmp-*") if p.is_file()]
            if not is_edited_model(out):
                assert not list(out.glob("*.safetensors*"))
        story.write(out, new, source)
        assert check(out, old, new) is new
    assert refused > 8


def test_bytes_that_do_not_fit_are_one_line(story, check, monkeypatch):
    out, old, new, source = story.start("further turn")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    whole = sum(p.stat().st_size for p in out.rglob("*v0000*"))
    for room in (0, 100, whole // 2, whole - 1):
        left = room
        original = Measured.write

        def write_some(self, data, /, original=original):
            nonlocal left
            left -= data.nbytes
            if left < 0:
                raise no_space()
            original(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Measured, "write", write_some)
            with pytest.raises(UltraEditError, match="No space left on device"):
                story.write(out, new, source)
        assert check(out, old, new) is old
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_first_write_that_fails_leaves_no_folder(story, monkeypatch):
    def full(*_):
        raise no_space()

    out, _, new, source = story.start("first write")
    monkeypatch.setattr(Measured, "write", full)
    with pytest.raises(UltraEditError):
        story.write(out, new, source)
    assert not out.exists()
    with lock(out):
        with pytest.raises(UltraEditError):
            story.write(out, new, source)
        assert sorted(path.name for path in out.rglob("*")) == ["lock", "ultraedit"]


def test_the_users_own_files_in_the_folder_survive(story):
    out, _, new, source = story.start("further turn")
    own = {out / "README.md": "mine", out / "ultraedit" / "notes.db": "later"}
    for path, text in own.items():
        path.write_text(text)
    story.write(out, new, source)
    assert {path: path.read_text() for path in own} == own


def test_a_full_disk_in_the_models_own_saving_is_one_line(story, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error:\nNo space left on device")

    out, _, new, _ = story.start("first write")
    monkeypatch.setattr(story.model, "save_pretrained", full)
    with pytest.raises(UltraEditError, match="I/O error: No space left on device"):
        story.write(out, new, None)
    assert not out.exists()
