"""Named edit sets over one base: each a folder with a journal, each an overlay in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ultraedit.editor import Editor
from ultraedit.errors import InputError
from ultraedit.history.effect import edits_in_effect
from ultraedit.methods.registry import method_class
from ultraedit.models.presets import choose_modules
from ultraedit.service.base import Base
from ultraedit.service.errors import ApiError
from ultraedit.service.keys import SET_NAME, no_set
from ultraedit.service.overlay import NOTHING, Overlaid, Overlay
from ultraedit.service.overlay_of import after_turn, of_editor, of_folder
from ultraedit.storage import is_edited_model, open_journal, settle_if_free
from ultraedit.storage.atomic import named_failures, sync_folder, write_file

log = logging.getLogger(__name__)

# The set that all others extend; `promote` puts edits there.
ROOT = "base"
# One to begin with.
FIRST = "default"


@dataclass(frozen=True)
class Described:
    """What a set's folder says of it.

    Attributes:
        extends: The set whose edits it has as well; None for the base's own set.
        created: Seconds since 1970.
    """

    extends: str | None
    created: float


class EditSet:
    """One set. Its edits are in `out`, an edited model, as soon as there are any.

    Attributes:
        name: Within the server.
        folder: Of the set.
        described: What it extends, and since when.
        own: The overlay of its own edits; None while it is not in memory.
    """

    def __init__(self, name: str, folder: Path, described: Described) -> None:
        self.name, self.folder, self.described = name, folder, described
        self.own: Overlay | None = None
        self._counts: dict[str, Any] | None = None

    @property
    def out(self) -> Path:
        return self.folder / "model"

    def counts(self) -> dict[str, Any]:
        """Edits, turns and learned edits in effect, and the journal's last entry."""
        if self._counts is None:
            self._counts = _counted(self.out)
        return self._counts

    def forget_counts(self) -> None:
        """The journal may have a new entry."""
        self._counts = None

    def changed(self, own: Overlay) -> None:
        """The journal has a new entry, and this is the overlay after it."""
        self.own = own


class Sets:
    """All sets of a server.

    Overlays and editors that nobody asked for lately leave memory, and come back when needed. Sets
    may be read from any thread; `editor`, `saved` and `undone` belong to the thread that edits.

    Args:
        folder: Where sets lie.
        base: What they edit.
        method: A method that changes weights.
        modules: As `Editor` takes it.
        most_bytes: Memory that overlays may take together, but for those that are in use.
        most_editors: Editors that are kept in memory.
        settings: Further options of editors.

    Raises:
        InputError: the method changes no weights, or a set is damaged.
    """

    def __init__(
        self,
        folder: Path,
        base: Base,
        *,
        method: str = "auto",
        modules: str = "auto",
        most_bytes: int = 2**30,
        most_editors: int = 2,
        **settings: Any,
    ) -> None:
        kind = method_class(method)
        if not kind.info.changes_weights:
            raise InputError(f"method {method} changes no weights; a server needs one that does")
        self.folder, self.base = folder, base
        self.options = {"method": method, **settings}
        self.modules = list(choose_modules(base.model, modules, kind.modules))
        self.most_bytes, self.most_editors = most_bytes, most_editors
        self._lock = threading.RLock()
        self._sets: dict[str, EditSet] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._combined: dict[str, tuple[tuple[int, ...], Overlay]] = {}
        self._editors: OrderedDict[str, tuple[Editor, Overlaid]] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            if SET_NAME.fullmatch(path.name) and (path / "set.json").is_file():
                self._sets[path.name] = EditSet(path.name, path, _described(path))
        if ROOT not in self._sets:
            self._add(ROOT, None)
            if FIRST not in self._sets:
                self._add(FIRST, ROOT)
        for one in self._sets.values():
            self._check_chain(one)
            if is_edited_model(one.out):
                settle_if_free(one.out)

    def names(self) -> list[str]:
        """Of all sets, the base's own first."""
        with self._lock:
            return sorted(self._sets, key=lambda name: (name != ROOT, name))

    def get(self, name: str) -> EditSet:
        """A set by its name.

        Raises:
            ApiError: there is none.
        """
        with self._lock:
            try:
                return self._sets[name]
            except KeyError:
                raise no_set(name) from None

    def create(self, name: str, extends: str | None = None) -> EditSet:
        """A set without edits.

        Raises:
            ApiError: the name is taken or is none, or there is no set to extend.
        """
        if not SET_NAME.fullmatch(name):
            raise ApiError(
                400, "a set's name has small letters, digits, and . _ - inside", param="id"
            )
        with self._lock:
            if name in self._sets:
                raise ApiError(409, f"there is a set {name!r} already", param="id")
            self.get(extends or ROOT)
            return self._add(name, extends or ROOT)

    def delete(self, name: str) -> None:
        """Delete a set with its history.

        Raises:
            ApiError: there is none, another extends it, or it is the base's own.
        """
        with self._lock:
            one = self.get(name)
            heirs = [other.name for other in self._sets.values() if other.described.extends == name]
            if name == ROOT or heirs:
                reason = f"{heirs[0]} extends it" if heirs else "all others extend it"
                raise ApiError(409, f"{name} cannot be deleted: {reason}")
            # Out of sight in one step: what is left after a crash is no set.
            gone = one.folder.with_name(f".deleted-{name}-{time.time_ns()}")
            one.folder.rename(gone)
            sync_folder(self.folder)
            del self._sets[name]
            self._combined.pop(name, None)
            self._recent.pop(name, None)
            self.drop_editor(name)
        shutil.rmtree(gone, ignore_errors=True)

    def chain(self, name: str) -> list[EditSet]:
        """The sets whose edits a set has, its own last.

        Raises:
            ApiError: there is no such set.
        """
        with self._lock:
            found = [self.get(name)]
            while (extends := found[0].described.extends) is not None:
                found.insert(0, self.get(extends))
            return found

    def overlay(self, name: str) -> Overlay:
        """All that a set adds to the base; read from its folders if it is not in memory.

        Raises:
            ApiError: there is no such set, or its folder is damaged.
        """
        with self._lock:
            sets = self.chain(name)
            for one in sets:
                self._recent[one.name] = None
                self._recent.move_to_end(one.name)
            owns = [self._own(one) for one in sets]
            marks = tuple(id(own) for own in owns)
            known = self._combined.get(name)
            if known is None or known[0] != marks:
                whole = NOTHING
                for own in owns:
                    whole = whole.plus(own)
                whole = replace(whole, version=_version([own.version for own in owns]))
                known = self._combined[name] = (marks, whole)
                self._evict(keep={one.name for one in sets})
            return known[1]

    def describe(self, name: str) -> dict[str, Any]:
        """A set as the interface shows it.

        Raises:
            ApiError: there is no such set.
        """
        with self._lock:
            one = self.get(name)
            counts, own = one.counts(), one.own
            extends = one.described.extends
            return {
                "id": name,
                "object": "edit_set",
                "model": self.base.name if name == ROOT else f"{self.base.name}:{name}",
                "extends": extends,
                **counts,
                "rank": own.rank if own else None,
                "bytes": own.bytes if own else None,
                "loaded": own is not None,
                "created": int(one.described.created),
            }

    def loaded(self) -> tuple[int, int]:
        """How many sets are in memory, and the bytes of their factors."""
        with self._lock:
            owns = [one.own for one in self._sets.values() if one.own is not None]
            return len(owns), sum(own.bytes for own in owns)

    def editor(self, name: str) -> Editor:
        """The editor of a set, over what the sets that it extends add.

        Raises:
            ApiError: there is no such set, or its folder is damaged or was edited in another way.
        """
        one = self.get(name)
        if name in self._editors:
            self._editors.move_to_end(name)
        else:
            while len(self._editors) >= self.most_editors:
                self.drop_editor(next(iter(self._editors)))
            if is_edited_model(one.out):
                with _told(name):
                    made = self.base.edited(one.out, self.modules, **self.options)
            else:
                made = self.base.editor(self.modules, **self.options)
            self._editors[name] = (made, Overlaid(made.model))
        editor, overlaid = self._editors[name]
        extends = one.described.extends
        below = self.overlay(extends) if extends else NOTHING
        if overlaid.always(below):
            editor.workbench.forget()
        return editor

    def drop_editor(self, name: str) -> None:
        """Let go of an editor, with whatever it has not saved."""
        found = self._editors.pop(name, None)
        if found is not None:
            found[1].close()

    def save(self, name: str) -> None:
        """Write the turn that a set's editor has just made, and answer with it from now on.

        Raises:
            UltraEditError: it cannot be written; nothing is changed, and the editor is dropped.
        """
        one, (editor, _) = self.get(name), self._editors[name]
        try:
            shifts = [one for change in editor.pending.changes for one in change.shifts or ()]
            before = self._own(one)
            editor.save(one.out)
        except BaseException:
            self.drop_editor(name)
            raise
        self._publish(one, after_turn(before, shifts, editor))

    def undone(self, name: str) -> None:
        """Answer without what an undo of a set's editor took back."""
        one, (editor, _) = self.get(name), self._editors[name]
        self._publish(one, of_editor(editor, one.out))

    def _publish(self, one: EditSet, own: Overlay) -> None:
        with self._lock:
            one.changed(self._named(one, own))

    def _own(self, one: EditSet) -> Overlay:
        if one.own is None:
            with _told(one.name):
                one.own = self._named(one, of_folder(one.out))
        return one.own

    def _named(self, one: EditSet, own: Overlay) -> Overlay:
        one.forget_counts()
        version = f"{one.name}@{one.counts()['entry']}"
        return replace(own.to(self.base.model), version=version)

    def _check_chain(self, one: EditSet) -> None:
        """Whether what a set extends is there, and comes to an end.

        Raises:
            InputError: it does not.
        """
        passed = {one.name}
        while (extends := one.described.extends) is not None:
            if extends in passed or extends not in self._sets:
                raise InputError(f"{one.folder / 'set.json'} is damaged: it extends {extends!r}")
            passed.add(extends)
            one = self._sets[extends]

    def _evict(self, keep: set[str]) -> None:
        """Forget overlays that were not asked for lately, as far as memory asks for it."""
        for name in list(self._recent):
            if self.loaded()[1] <= self.most_bytes:
                return
            if name not in keep:
                self._sets[name].own = None
                del self._recent[name]
                for other in self._sets:
                    if any(part.name == name for part in self.chain(other)):
                        self._combined.pop(other, None)

    def _add(self, name: str, extends: str | None) -> EditSet:
        folder, described = self.folder / name, Described(extends, time.time())
        content = json.dumps(asdict(described)).encode()
        with named_failures(folder):
            folder.mkdir(exist_ok=True)
            write_file(folder / "set.json", lambda sink: sink.write(memoryview(content)))
            sync_folder(self.folder)
        self._sets[name] = EditSet(name, folder, described)
        return self._sets[name]


def _version(parts: Sequence[str]) -> str:
    """Of a chain: the set's own entry, and a digest of all, which names no set below."""
    return f"{parts[-1]}-{hashlib.sha256('+'.join(parts).encode()).hexdigest()[:8]}"


def unreadable(name: str, error: InputError) -> ApiError:
    """What is said of a set whose folder is damaged; the log gets the reason."""
    log.error("set %s: %s", name, error)
    return ApiError(500, f"the set {name!r} cannot be read; the server's log says why")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What is wrong with a folder is for the log: clients learn of no path.

    Raises:
        ApiError: in place of every `InputError`.
    """
    try:
        yield
    except InputError as error:
        raise unreadable(name, error) from error


def _described(folder: Path) -> Described:
    try:
        content = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        return Described(content["extends"], float(content["created"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'set.json'} is damaged: {error}") from error


def _counted(out: Path) -> dict[str, Any]:
    if not is_edited_model(out):
        return {"edits": 0, "turns": 0, "learned": 0, "entry": 0}
    with open_journal(out) as journal:
        number = journal.head().number
        last = journal.entry(number)
    records = edits_in_effect(out, number)
    return {
        "edits": last.edits,
        "turns": last.turns,
        "learned": sum(record.learned is True for record in records),
        "entry": number,
    }
