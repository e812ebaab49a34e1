"""Between an editor in memory and its snapshot on disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit import storage
from ultraedit.errors import InputError
from ultraedit.history.answers import answers
from ultraedit.history.neighbours import Neighbour, neighbours
from ultraedit.history.rebuild import rebuild_state
from ultraedit.history.undo import Undone, undo_edit, undo_to
from ultraedit.methods.registry import method_class
from ultraedit.models.frozen import QUANTISED, going_on, quantised_by
from ultraedit.models.load import load as load_model
from ultraedit.models.load import local_folder
from ultraedit.storage import Snapshot
from ultraedit.storage.constants import REFERENCE, Constants
from ultraedit.storage.fingerprint import fingerprint_of
from ultraedit.storage.trained import Trained

if TYPE_CHECKING:
    from ultraedit.session import Session


Loaded = TypeVar("Loaded", bound="Session")
# Options that leave the edits themselves as they are.
_OF_THE_PROCESS = ("history", "author", "check_learned")


def settings(editor: Session) -> dict[str, Any]:
    """Everything but tensors that an editor needs to go on as this one would."""
    encoder = editor.workbench.encoder
    return {
        "method": editor.method.info.name,
        "method_settings": editor.method.settings,
        "modules": editor.modules,
        "routed": not editor.method.info.changes_weights,
        "append_eos": encoder.append_eos,
        "tokenization": encoder.tokenization,
        "chat": editor.chat,
        "system": encoder.system,
        "template": dict(encoder.template),
        "batch_tokens": editor.workbench.batch_tokens,
        "threads": editor.threads,
        "dtype": _plain(editor.model.dtype),
        "frozen": editor.frozen,
        "trained": editor.trained,
        "quantised_by": quantised_by(editor.model) if editor.frozen in QUANTISED else None,
        "turns": editor.turns,
        "edits": editor.edits,
        "run": editor.run,
        "base": editor.base_name,
    }


def about(editor: Session) -> dict[str, Any]:
    """What a journal says once: what was edited, and how its weights are laid out."""
    return {
        "base": {
            "name": editor.base_name,
            "revision": getattr(editor.model.config, "_commit_hash", None),
        },
        "weights": {
            name: {"parameter": target.parameter_name, "transposed": target.transposed}
            for name, target in editor.workbench.targets.items()
        },
    }


def save(editor: Session, folder: Path, locked: bool) -> None:
    """`Editor.save`."""
    if editor.read_only:
        raise InputError(editor.read_only)
    out = folder.resolve()
    known = editor.saved_to | ({editor.source.resolve()} if editor.source else set())
    if storage.is_edited_model(out) and out not in known:
        raise InputError(f"{folder} holds edits of another editor; name another folder")
    with nullcontext() if locked else storage.lock(folder):
        before = _digest(out)
        try:
            storage.write(
                folder,
                snapshot(editor),
                model=editor.model,
                tokenizer=editor.tokenizer,
                source=editor.source,
                update=editor.pending.update(
                    out, editor.turns, editor.edits, about(editor), editor.replayable
                ),
            )
        finally:
            # Interrupted after the commit it counts all the same: the lock says it is ours.
            after = _digest(out)
            if after is not None and after != before:
                editor.saved_to.add(out)
                editor.pending.saved(out, after)


def undo(editor: Session, to: int | None, edit: str | None, turn: int | None) -> Undone:
    """`Editor.undo`."""
    out = editor.pending.latest
    if out is None or not editor.pending.is_saved(out):
        raise InputError("undo works on what the journal has: save the model first")
    with storage.lock(out):
        before = editor.pending.recorded[out].digest
        if _digest(out) != before:
            raise InputError(f"{out} was changed since it was read; load it again")
        try:
            if edit is None:
                assert to is not None
                undone = undo_to(out, to, editor.pending.author)
                restore(editor, storage.read(out), out, _last(out))
            else:
                undone = _undo_edit(editor, out, edit, turn)
        except BaseException:
            if _digest(out) != before:
                # The folder went back and the editor did not: it must be loaded again.
                editor.pending.moved()
            raise
        digest = _digest(out)
        assert digest is not None
        editor.pending.moved()
        editor.pending.saved(out, digest)
    return undone


def _undo_edit(editor: Session, out: Path, edit: str, turn: int | None) -> Undone:
    touched = neighbours(out, edit, turn)
    records = [record for _, record in touched]
    before = answers(editor.workbench, records)
    undone = undo_edit(out, edit, turn, editor.pending.author)
    restore(editor, storage.read(out), out, _last(out))
    after = answers(editor.workbench, records)
    measured = [
        Neighbour(number, record, was, now)
        for (number, record), was, now in zip(touched, before, after, strict=True)
    ]
    return replace(undone, removed=measured[0], neighbours=tuple(measured[1:]))


def load(
    cls: type[Loaded],
    folder: Path,
    options: Mapping[str, Any],
    place: Mapping[str, Any],
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> Loaded:
    """`Editor.load`."""
    folder = folder.resolve()
    storage.settle_if_free(folder)
    digest, number, snapshot = _read(folder)
    settings = with_forms(snapshot.settings)
    if isinstance(options.get("chat"), bool):
        options = {**options, "chat": "only" if options["chat"] else "off"}
    keeping = {k: v for k, v in options.items() if k in _OF_THE_PROCESS}
    if options.get("trained") is not None:
        options = {**options, "trained": Trained.read(Path(options["trained"])).digest}
    refuse_changes(settings, {k: v for k, v in options.items() if k not in keeping})
    batch_tokens = options.get("batch_tokens") or settings["batch_tokens"]
    # Editors that wrote no such setting held everything on the device.
    recorded = settings.get("frozen", "resident")
    frozen = going_on(recorded, place.get("frozen"), place.get("device_map"))
    originals = snapshot.originals
    # Editors that recorded no dtype computed in the stored one.
    computed = settings.get("dtype") or _plain(next(iter(originals.values())).dtype)
    dtype = place.get("dtype", "auto")
    model, tokenizer = loaded or load_model(
        folder,
        **{
            **place,
            "dtype": computed if dtype == "auto" else dtype,
            "frozen": frozen,
            "modules": lambda bare: settings["modules"],
        },
    )
    wider = (o.dtype for p, o in originals.items() if o.dtype != model.get_parameter(p).dtype)
    editor = cls(
        model,
        tokenizer,
        method=method_class(settings["method"]).with_settings(settings["method_settings"]),
        modules=settings["modules"],
        append_eos=settings["append_eos"],
        tokenization=settings["tokenization"],
        chat=settings["chat"],
        system=settings["system"],
        template=settings["template"],
        batch_tokens=batch_tokens,
        stored=next(wider, None),
        **keeping,
    )
    if _plain(model.dtype) != computed:
        editor.read_only = (
            f"{folder} was edited in {computed}; it cannot go on in {_plain(model.dtype)}"
        )
    library = settings.get("quantised_by")
    if frozen in QUANTISED and quantised_by(model) != library:
        editor.read_only = (
            f"{folder} was edited over blocks quantised by {library}; it cannot go on over"
            f" {quantised_by(model)}'s"
        )
    editor.trained = settings.get("trained")
    restore(editor, snapshot, folder, number)
    editor.source, editor.frozen, editor.threads = folder, frozen, settings["threads"]
    if digest is not None:
        with storage.open_journal(folder) as journal:
            journal.verify()
            head = journal.head()
        if "history" not in options:
            editor.pending.keep = head.keep
        editor.pending.snapshot_every = head.snapshot_every
        editor.pending.moved()
        editor.pending.saved(folder, digest)
    else:
        # A folder of an earlier release, without a journal.
        editor.pending.forget()
        if "history" not in options:
            editor.pending.keep = 0
    return editor


def with_forms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings, those of earlier releases in today's words.

    They knew whether prompts were in the template, and had a setting of the method for the other
    form.
    """
    found = {"system": None, "template": {}, "trained": None, **settings}
    if isinstance(found["chat"], bool):
        own = dict(found["method_settings"])
        both = own.pop("chat", False) and not found["chat"]
        chat = "only" if found["chat"] else None if both else "off"
        found |= {"method_settings": own, "chat": chat}
    return found


def check_base(editor: Session, model: str, out: Path) -> None:
    """Whether `model` is what `out` was edited from.

    Raises:
        InputError: it is another model.
    """
    if editor.base_name in (model, str(Path(model).resolve())):
        return
    if storage.Layout(out).journal.is_file() and (folder := local_folder(model)) is not None:
        with storage.open_journal(out) as journal:
            identity = journal.head().about["base"]["sha256"]
        if fingerprint_of(folder) == identity:
            return
    raise InputError(f"{out} was edited from {editor.base_name}, not from {model}")


def _digest(out: Path) -> str | None:
    """Of the journal's head; None where there is none that could be read."""
    if not storage.Layout(out).journal.is_file():
        return None
    with storage.open_journal(out) as journal:
        return journal.head_digest()


def _read(folder: Path) -> tuple[str | None, int, Snapshot]:
    """A version, with the digest and the last entry of the journal at that version."""
    while True:
        before = _digest(folder)
        snapshot, number = storage.read(folder), _last(folder)
        if _digest(folder) == before:
            return before, number, snapshot


def _last(out: Path) -> int:
    """The journal's last entry; 0 where there is none."""
    if not storage.Layout(out).journal.is_file():
        return 0
    with storage.open_journal(out) as journal:
        return journal.head().number


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def snapshot(editor: Session) -> Snapshot:
    """The editor as it is now; its tensors are the editor's own, not copies."""
    editor.restore_state()
    masters = editor.workbench.masters
    state = editor.without_constants(editor.method.state_dict())
    names = {target.parameter_name: name for name, target in editor.workbench.targets.items()}
    return Snapshot(
        served={p: masters[name].served() for p, name in names.items()},
        masters={p: masters[name].master for p, name in names.items()},
        originals={p: masters[name].original for p, name in names.items()},
        state=state,
        settings=settings(editor),
        version=editor.turns,
        constants=editor.constants if REFERENCE in state else Constants(),
    )


def restore(editor: Session, snapshot: Snapshot, out: Path, number: int) -> None:
    """Bring weights, masters, originals, state and counts back.

    Args:
        editor: Of the same modules.
        snapshot: What to bring back.
        out: Where it was read. A state that follows from the history there is rebuilt when a turn
            or a save needs it, if ever; a method that routes needs it for every question.
        number: The journal's entry that it is the version of.
    """
    for name, target in editor.workbench.targets.items():
        master = editor.workbench.masters[name]
        master.original = snapshot.originals[target.parameter_name].to(master.original.dtype)
        master.set(snapshot.masters[target.parameter_name].to(master.parameter.device))
    if snapshot.state is not None:
        editor.load_state(snapshot.state, snapshot.constants)
    else:
        editor.defer_state(lambda: rebuild_state(out, number))
        if not editor.method.info.changes_weights:
            editor.restore_state()
    editor.turns, editor.edits = snapshot.settings["turns"], snapshot.settings["edits"]
    editor.run = snapshot.settings.get("run")
    editor.base_name = snapshot.settings.get("base", editor.base_name)


def refuse_changes(settings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """An edited model goes on as it was begun; `auto` and None stand for that.

    Raises:
        InputError: an option that is not recorded, or is recorded with another value.
    """
    recorded = {**settings["method_settings"], **settings}
    for name, value in options.items():
        # A smaller batch is what a full device asks for; it only changes roundings.
        if value is None or value == "auto" or name == "batch_tokens":
            continue
        if name not in recorded:
            raise InputError(f"there is no option {name!r}")
        if name == "modules" and isinstance(value, str):
            value = [module.strip() for module in value.split(",")]
        if value == recorded[name]:
            continue
        raise InputError(
            f"the model was edited with {name}={recorded[name]!r}; it cannot go on with {value!r}"
        )
