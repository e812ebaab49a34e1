"""Where an export goes: nothing is overwritten, and nothing is left half."""

import builtins
import errno
import fcntl
import os
import shutil
from contextlib import suppress

import pytest
import torch

from ultraedit.errors import InputError, UltraEditError
from ultraedit.export import checkpoint, delta, lora
from ultraedit.export.apply import apply
from ultraedit.export.staging import new_file, new_folder
from ultraedit.storage.atomic import Measured

CHANGES = ("replace", "rename", "link", "mkdir", "fsync")


class Death(BaseException):
    """The process is no more."""


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Exports:
    """One edited model, and the four ways to write something of it."""

    kinds = ("checkpoint", "delta", "lora", "apply")

    def __init__(self, edited, root):
        self.edited, self.delta = edited, root / "given" / "facts.safetensors"
        delta.write(edited.out, self.delta)

    def write(self, kind, target):
        if kind == "apply":
            return apply(self.edited.base, self.delta, target)
        return {"checkpoint": checkpoint, "delta": delta, "lora": lora}[kind].write(
            self.edited.out, target
        )


@pytest.fixture
def exports(edit_model, tmp_path):
    return Exports(edit_model("llama", torch.bfloat16), tmp_path)


@pytest.fixture(params=Exports.kinds)
def kind(request):
    return request.param


def test_what_is_there_is_never_overwritten(exports, kind, tmp_path, contents):
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nothing")
    before = contents(tmp_path)
    for target in (full, file, link, exports.edited.out, exports.edited.base):
        with pytest.raises(InputError) as caught:
            exports.write(kind, target)
        assert caught.value.exit_code == 2
        assert str(target) in str(caught.value)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_filled_and_missing_ones_are_made(exports, kind, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    deep = tmp_path / "some" / "where" / "deep"
    exports.write(kind, deep)
    assert deep.is_file() if kind == "delta" else any(deep.iterdir())
    if kind == "delta":
        with pytest.raises(InputError):
            exports.write(kind, tmp_path / "empty")
        return
    exports.write(kind, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {p.name for p in deep.iterdir()} == {p.name for p in (tmp_path / "empty").iterdir()}


def test_nothing_is_written_into_the_model_itself(exports, kind, tmp_path, contents):
    source = exports.edited.base if kind == "apply" else exports.edited.out
    before = contents(source)
    (tmp_path / "link").symlink_to(source)
    for target in (source / "within", tmp_path / "link" / "deep" / "within"):
        with pytest.raises(InputError, match="lies in"):
            exports.write(kind, target)
    assert contents(source) == before


def changes(monkeypatch, at, failure, then_dead):
    """Every change of the disk counted; the one numbered `at` fails, and later ones if dead."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if at is not None and (count == at or (then_dead and count > at)):
                raise failure()
            return function(*args, **kwargs)

        return call

    def opened(*args, **kwargs):
        mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
        return (writing if set(mode) & set("wax+") else plain)(*args, **kwargs)

    plain = builtins.open
    writing = counted(plain)
    for name in CHANGES + (("unlink", "rmdir", "remove") if then_dead else ()):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(builtins, "open", opened)
    return lambda: count


def count_of(exports, kind, target, monkeypatch):
    with monkeypatch.context() as patch:
        count = changes(patch, None, Death, False)
        exports.write(kind, target)
        return count()


def test_a_full_disk_is_one_line_and_leaves_nothing(exports, kind, tmp_path, monkeypatch, contents):
    total = count_of(exports, kind, tmp_path / "whole", monkeypatch)
    assert total > 7
    before = contents(tmp_path)
    refused = 0
    for at in range(1, total + 1):
        target = tmp_path / "new" / "target"
        error = None
        with monkeypatch.context() as patch:
            changes(patch, at, no_space, False)
            try:
                exports.write(kind, target)
            except UltraEditError as caught:
                error = caught
        if error is None:
            # A link that was refused became a copy.
            assert same_export(tmp_path / "whole", target)
        else:
            refused += 1
            assert error.exit_code == 1
            assert "No space left on device" in str(error)
            assert str(target) in str(error)
            assert "\n" not in str(error)
            # Once the last renaming is done, the export is there and whole.
            if target.exists():
                assert same_export(tmp_path / "whole", target)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        assert contents(tmp_path) == before
    assert refused > 5


def test_a_full_disk_before_the_last_renaming_leaves_no_trace(
    exports, kind, tmp_path, monkeypatch, contents
):
    before = contents(tmp_path)
    written = 0
    plain = Measured.write

    def measure(self, data, /):
        nonlocal written
        written += data.nbytes
        plain(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Measured, "write", measure)
        exports.write(kind, tmp_path / "whole")
    discard_new(tmp_path, before)
    for room in (0, 100, written // 2, written - 1):
        left = room

        def write_some(self, data, /):
            nonlocal left
            left -= data.nbytes
            if left < 0:
                raise no_space()
            plain(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Measured, "write", write_some)
            with pytest.raises(UltraEditError, match="No space left on device"):
                exports.write(kind, tmp_path / "new" / "deep" / "target")
        assert contents(tmp_path) == before


def discard_new(root, before):
    for path in root.iterdir():
        if path.name not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_killed_export_leaves_no_half_and_the_next_one_cleans_up(
    exports, kind, tmp_path, monkeypatch
):
    total = count_of(exports, kind, tmp_path / "whole", monkeypatch)
    names = {path.name for path in tmp_path.iterdir()} | {"target"}
    for at in range(1, total + 1):
        with monkeypatch.context() as patch:
            changes(patch, at, Death, True)
            with pytest.raises(Death):
                exports.write(kind, tmp_path / "target")
        target = tmp_path / "target"
        if target.exists():
            assert same_export(tmp_path / "whole", target)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        exports.write(kind, target)
        assert same_export(tmp_path / "whole", target)
        assert {path.name for path in tmp_path.iterdir()} == names
        shutil.rmtree(target) if target.is_dir() else target.unlink()


def same_export(first, second):
    if first.is_file():
        return first.read_bytes() == second.read_bytes()
    one, other = (
        {p.relative_to(f) for f in [folder] for p in f.rglob("*")} for folder in (first, second)
    )
    return one == other and all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in one
        if (first / name).is_file()
    )


@pytest.mark.parametrize("new", [new_folder, new_file])
def test_two_at_once_do_not_mix(new, tmp_path):
    target, outside = tmp_path / "target", tmp_path / "model"
    with new(target, outside) as staged:
        with (
            pytest.raises(UltraEditError, match="another process is writing"),
            new(target, outside),
        ):
            raise AssertionError
        assert staged.parent.exists()
        (staged / "mine" if new is new_folder else staged).write_text("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "mine" if new is new_folder else target).read_text() == "mine"


@pytest.mark.parametrize("again", [True, False])
def test_a_lock_whose_file_is_no_longer_there_is_none(tmp_path, monkeypatch, again):
    """The process before has finished between our opening its lock and our getting it."""

    path = tmp_path / ".tmp-target" / ".tmp-lock"
    ends = iter([True])

    def finish_before(file, operation, lock=fcntl.flock):
        if next(ends, False):
            path.unlink()
            if again:
                path.touch()
        lock(file, operation)

    # It may be refused; but who holds the lock holds the file that others will find.
    with monkeypatch.context() as patch, suppress(UltraEditError):
        patch.setattr(fcntl, "flock", finish_before)
        with (
            new_folder(tmp_path / "target", tmp_path / "model"),
            path.open("ab") as other,
            pytest.raises(BlockingIOError),
        ):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with new_folder(tmp_path / "target", tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_folder_that_is_filled_meanwhile_is_left_alone(tmp_path):
    def fill():
        with new_folder(tmp_path / "target", tmp_path / "model") as staged:
            (staged / "mine").write_text("mine")
            (tmp_path / "target").mkdir()
            (tmp_path / "target" / "theirs").write_text("theirs")

    with pytest.raises(UltraEditError, match="not empty"):
        fill()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("new", [new_folder, new_file])
def test_an_interrupted_block_leaves_nothing(new, tmp_path):
    def interrupted():
        with new(tmp_path / "a" / "b", tmp_path / "model") as staged:
            (staged / "mine" if new is new_folder else staged).write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
