"""One version of an edited model: its files, and the moment from which it counts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import (
    TEMPORARY,
    Measured,
    discard,
    named_failures,
    place,
    stage,
    sync_folder,
)
from ultraedit.storage.atomic import replace as replace_file
from ultraedit.storage.base import Base, build_base
from ultraedit.storage.commit import Commit, Update
from ultraedit.storage.config_files import (
    CONFIG,
    config_of,
    copy_config_files,
    dtype_of,
    has_tokenizer,
    move_config_files,
    save_config,
    save_tokenizer,
    write_warning,
)
from ultraedit.storage.factors import write_record
from ultraedit.storage.filerecord import FileRecord
from ultraedit.storage.fingerprint import base_places, fingerprint
from ultraedit.storage.layout import STAGED, Layout, is_edited_model
from ultraedit.storage.lock import lock
from ultraedit.storage.manifest import Manifest, read_manifest
from ultraedit.storage.shards import read_header
from ultraedit.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Draft:
    """A version whose files are all on disk, and that only the renaming will make count."""

    manifest: Manifest
    commit: Commit
    staged_index: Path
    config_files: Path | None


def draft_turn(layout: Layout, previous: Manifest, snapshot: Snapshot, update: Update) -> Draft:
    """A further version over the base and the originals that are there."""
    base = Base(previous.base, previous.keys, previous.source, None)
    # Folders written by earlier releases have a name for each version.
    name = previous.edited.name
    name = name if STAGED.fullmatch(name) else layout.free_edited()
    return _draft(
        layout, snapshot, base, name, previous.originals, None, update, previous.constants
    )


def draft_all(
    layout: Layout,
    snapshot: Snapshot,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    source: Path | None,
    update: Update,
) -> Draft:
    """A first version."""
    if model is None or tokenizer is None:
        raise ValueError("a first version needs the model and the tokenizer")
    scratch, staged = layout.out / f"{TEMPORARY}model", layout.out / f"{TEMPORARY}config"
    base = build_base(layout, snapshot, model, source, scratch)
    discard(scratch)
    # The model may compute in a wider dtype than it is stored in.
    stored = next((weight.dtype for weight in snapshot.served.values()), model.dtype)
    staged.mkdir()
    if source is not None and (source / CONFIG).is_file():
        copy_config_files(source, staged, _other_dtype(source, stored, base))
    else:
        save_config(staged, model, stored, base.quantization)
    if source is None or not has_tokenizer(source, tokenizer):
        save_tokenizer(staged, tokenizer)
    if snapshot.settings.get("routed"):
        write_warning(staged, str(snapshot.settings["method"]))
    originals = write_record(layout.internal / "originals.safetensors", snapshot.originals)
    known = _inherited_constants(layout, update)
    return _draft(
        layout, snapshot, base, "model-edited.safetensors", originals, staged, update, known
    )


def _other_dtype(source: Path, stored: torch.dtype, base: Base) -> str | None:
    """The dtype that a copied config must name instead of its own; None for its own."""
    config = config_of(source)
    text = config.get("text_config")
    own = dtype_of(config) or (dtype_of(text) if isinstance(text, dict) else None) or base.dtype
    wanted = str(stored).removeprefix("torch.")
    return None if own == wanted else wanted


def _draft(
    layout: Layout,
    snapshot: Snapshot,
    base: Base,
    name: str,
    originals: FileRecord,
    config_files: Path | None,
    update: Update,
    known: tuple[FileRecord, ...],
) -> Draft:
    tag = layout.free_tag(snapshot.version)
    masters = snapshot.separate_masters()
    state = None
    if not update.keeps_state:
        if snapshot.state is None:
            raise ValueError("this version needs the method's state")
        state = write_record(layout.internal / f"state-{tag}.safetensors", snapshot.state)
    served = {key: snapshot.served[parameter] for parameter, key in base.keys.items()}
    manifest = Manifest(
        version=snapshot.version,
        settings=dict(snapshot.settings),
        keys=dict(base.keys),
        edited=_write_edited(layout, name, served),
        originals=originals,
        masters=write_record(layout.internal / f"masters-{tag}.safetensors", masters)
        if masters
        else None,
        state=state,
        base=dict(base.files),
        source=base.source,
        constants=_with_constants(layout, snapshot, known),
    )
    # All is complete on disk before any of it counts, so that a full disk cannot part it.
    index = _stage_text(layout.index, _index_text(layout.out, manifest))
    if not layout.journal.exists() and update.inherit is None:
        digest = fingerprint(base_places(layout.out, manifest))
        identity = {**update.about.get("base", {}), "sha256": digest}
        update = replace(update, about={**update.about, "base": identity})
    return Draft(manifest, Commit.prepare(layout, manifest, snapshot, update), index, config_files)


def _with_constants(
    layout: Layout, snapshot: Snapshot, known: tuple[FileRecord, ...]
) -> tuple[FileRecord, ...]:
    """The records of constants, with those of the snapshot; written if they are not there yet."""
    constants = snapshot.constants
    if not constants.tensors or any(record.name == constants.name for record in known):
        return known
    return (*known, write_record(layout.internal / constants.name, constants.tensors))


def _inherited_constants(layout: Layout, update: Update) -> tuple[FileRecord, ...]:
    """Bring the constants along that an inherited journal's files refer to."""
    if update.inherit is None:
        return ()
    records = read_manifest(update.inherit).constants
    for record in records:
        target = layout.internal / record.name
        discard(target)
        place(Layout(update.inherit).internal / record.name, target)
    return records


def _write_edited(layout: Layout, name: str, served: Mapping[str, Tensor]) -> FileRecord:
    """Write the edited shard where no loader finds it; `Layout.publish` gives it its name."""
    written = write_record(layout.internal / name, served)
    replace_file(layout.internal / name, layout.staged(written))
    return written


def commit(layout: Layout, draft: Draft, first: bool) -> None:
    """Make a draft count.

    The index follows the decision: a crash between the two leaves loaders the version
    before until `settle`. Only a first version has none before, so its index goes first.
    """
    if draft.config_files is not None:
        move_config_files(draft.config_files, layout.out)
    edited = draft.manifest.edited
    if not first:
        draft.commit.make()
        layout.publish(edited)
        os.replace(draft.staged_index, layout.index)
        sync_folder(layout.out)
        return
    try:
        layout.publish(edited)
        os.replace(draft.staged_index, layout.index)
        sync_folder(layout.out)
        draft.commit.make()
    except BaseException:
        if not is_edited_model(layout.out):
            layout.index.unlink(missing_ok=True)
        raise


def settle(out: Path) -> None:
    """Let the index follow a decision that a crash parted it from; the caller holds the lock.

    Raises:
        InputError: `out` is no edited model, or damaged.
        UltraEditError: it cannot be written.
    """
    layout = Layout(out)
    manifest = read_manifest(out)
    if not _is_settled(layout, manifest):
        with named_failures(out):
            layout.publish(manifest.edited)
            os.replace(_stage_text(layout.index, _index_text(out, manifest)), layout.index)
            sync_folder(out)
            layout.sweep(manifest.files(layout))


def settle_if_free(out: Path) -> None:
    """`settle` where it is needed, nobody else is writing, and the folder can be written."""
    if is_edited_model(out) and not _is_settled(Layout(out), read_manifest(out)):
        with suppress(UltraEditError), lock(out):
            settle(out)


def _is_settled(layout: Layout, manifest: Manifest) -> bool:
    if layout.staged(manifest.edited).is_file():
        return False
    files = {layout.out / name for name in (*manifest.base, manifest.edited.name)}
    visible = {path for path in layout.own_files() if path.parent == layout.out}
    return layout.indexed() == files >= visible


def _index_text(out: Path, manifest: Manifest) -> str:
    weight_map, total = {}, 0
    files = {name: out / name for name in manifest.base}
    files[manifest.edited.name] = Layout(out).edited(manifest.edited)
    for name, path in files.items():
        for key, entry in read_header(path).tensors.items():
            weight_map[key] = name
            total += entry.size
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2) + "\n"


def _stage_text(path: Path, text: str) -> Path:
    def fill(sink: Measured) -> None:
        sink.write(memoryview(text.encode()))

    return stage(path, fill)[0]
