"""Writing and reading OUT: base shards once, one small version per turn, then what decides."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.storage.atomic import named_failures, sync_folder, write_file
from ultraedit.storage.bits import same_bits
from ultraedit.storage.commit import Update, clear_beyond
from ultraedit.storage.constants import Constants, read_constants
from ultraedit.storage.filerecord import check_size
from ultraedit.storage.journal import Journal
from ultraedit.storage.layout import INTERNAL, Layout, check_destination, is_edited_model
from ultraedit.storage.manifest import Manifest, read_manifest
from ultraedit.storage.shards import DTYPES, read_header, read_tensor, read_tensors
from ultraedit.storage.snapshot import Snapshot
from ultraedit.storage.version import commit, draft_all, draft_turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write(
    out: str | Path,
    snapshot: Snapshot,
    *,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    source: str | Path | None,
    update: Update,
) -> None:
    """Write a version of an edited model into `out`.

    The first write lays down the base shards. Later ones write the edited weights, their
    masters and the state only. Whatever goes wrong, `out` stays readable: at the previous
    version until the new one is complete on disk, at the new one from then on.

    Args:
        out: A new or empty folder, or an edited model of the same base and modules.
        snapshot: What to write.
        model: The edited model; saved whole when `source` does not have its weights as
            safetensors. None will do for a further version of the same weights.
        tokenizer: Its tokenizer, or None likewise.
        source: The local folder the model was loaded from, itself an edited model or not.
        update: What the journal is to say of it.

    Raises:
        InputError: `out` is something else, or holds edits of another model.
        UltraEditError: a file cannot be written, or another process wrote meanwhile.
    """
    out, source = Path(out), None if source is None else Path(source)
    json.dumps(dict(snapshot.settings))  # what JSON cannot hold is refused before any writing
    with named_failures(out):
        check_destination(out)
        layout = Layout(out)
        previous = read_manifest(out) if is_edited_model(out) else None
        # Whoever goes on from the journal's head has read the originals from here.
        goes_on = update.follows is not None and layout.journal.exists()
        turn_only = previous is not None and _same_base(layout, previous, snapshot, goes_on)
        if previous is not None and not turn_only:
            raise InputError(
                f"{out} holds edits of other modules or of another model; name another folder"
            )
        created = not out.exists()
        try:
            _begin(layout, previous)
            if previous is not None and turn_only:
                draft = draft_turn(layout, previous, snapshot, update)
            else:
                draft = draft_all(layout, snapshot, model, tokenizer, source, update)
            commit(layout, draft, first=previous is None)
        except BaseException:
            with suppress(OSError, InputError):
                _tidy(layout, previous, created)
            raise
    # The version counts by now; files that cannot be deleted are left to the next write.
    with suppress(OSError):
        layout.sweep(draft.manifest.files(layout))
        draft.commit.tidy()
        layout.unfinished.unlink(missing_ok=True)


def read(out: str | Path) -> Snapshot:
    """Read the version of an edited model that counts.

    Raises:
        InputError: `out` is no edited model, or one of its files is missing, truncated or
            altered.
    """
    out = Path(out)
    while True:
        manifest = read_manifest(out)
        staged = Layout(out).staged(manifest.edited).is_file()
        try:
            return _read(Layout(out), manifest)
        except (InputError, OSError) as error:
            # A writer may have moved on, and deleted what this version needed.
            if overtaken(out, manifest, staged):
                continue
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot read {out}: {error}") from error


def overtaken(out: Path, manifest: Manifest, staged: bool) -> bool:
    """Whether a writer went on since `manifest` was read, its edited shard staged or not."""
    now = read_manifest(out)
    return now != manifest or staged != Layout(out).staged(now.edited).is_file()


def read_settings(out: str | Path) -> dict[str, Any]:
    """Read the settings of an edited model, and no tensors.

    Raises:
        InputError: `out` is no edited model.
    """
    return dict(read_manifest(Path(out)).settings)


def _read(layout: Layout, manifest: Manifest) -> Snapshot:
    out = layout.out
    for name, size in manifest.base.items():
        check_size(out / name, size)
    edited = read_tensors(manifest.check_edited(out))
    originals = read_tensors(manifest.originals.check(layout.internal))
    masters: dict[str, Tensor] = {}
    if manifest.masters is not None:
        masters = read_tensors(manifest.masters.check(layout.internal))
    state, constants = None, Constants()
    if manifest.state is not None:
        state = read_tensors(manifest.state.check(layout.internal))
        constants = read_constants(layout.internal, manifest.constants, state)
    try:
        served = {parameter: edited[key] for parameter, key in manifest.keys.items()}
        return Snapshot(
            served=served,
            masters={name: masters.get(name, weight) for name, weight in served.items()},
            originals={name: originals[name] for name in served},
            state=state,
            settings=manifest.settings,
            version=manifest.version,
            constants=constants,
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{out} is damaged: its files do not fit together ({error})") from error


def _begin(layout: Layout, previous: Manifest | None) -> None:
    """Make the folder where there is none, and clear away what a crash left in it."""
    if not layout.out.exists():
        layout.out.mkdir(parents=True)
        sync_folder(layout.out.parent)
    layout.internal.mkdir(exist_ok=True)
    if previous is None:
        write_file(layout.unfinished, lambda sink: None)
    layout.sweep(_kept(layout, previous))


def _tidy(layout: Layout, previous: Manifest | None, created: bool) -> None:
    """After a failure, delete what was begun; the folder too if it was made for this."""
    counting = read_manifest(layout.out) if is_edited_model(layout.out) else previous
    layout.sweep(_kept(layout, counting))
    last = -1
    if layout.journal.exists():
        with Journal(layout.journal) as journal:
            last = journal.head().number
    clear_beyond(layout, last)
    if counting is None and layout.history.is_dir():
        layout.history.rmdir()
    if counting is None and not {path.name for path in layout.out.iterdir()} - {INTERNAL}:
        layout.unfinished.unlink(missing_ok=True)
        if created:
            layout.internal.rmdir()
            layout.out.rmdir()


def _kept(layout: Layout, manifest: Manifest | None) -> set[Path]:
    return set() if manifest is None else manifest.files(layout)


def _same_base(
    layout: Layout, previous: Manifest, snapshot: Snapshot, by_header: bool = False
) -> bool:
    """Whether a snapshot edits the very weights that OUT's version edits.

    Args:
        layout: Of OUT.
        previous: Its version.
        snapshot: What is to be written.
        by_header: Compare only names, dtypes and shapes.
    """
    if previous.keys.keys() != snapshot.served.keys():
        return False
    path = layout.internal / previous.originals.name
    check_size(path, previous.originals.size)
    header = read_header(path)
    if by_header:
        return all(
            DTYPES.get(header.tensors[name].dtype) == original.dtype
            and header.tensors[name].shape == tuple(original.shape)
            for name, original in snapshot.originals.items()
        )
    return all(
        same_bits(read_tensor(path, header, name), original)
        for name, original in snapshot.originals.items()
    )
