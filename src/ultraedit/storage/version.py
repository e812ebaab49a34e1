"""One version of an edited model: its files, and the moment from which it counts."""

from __future__ import annotations

import json
import os
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
    stage,
    sync_folder,
)
from ultraedit.storage.base import Base, build_base
from ultraedit.storage.cards import move_cards, stage_cards, stage_warning
from ultraedit.storage.decision import Decision, FileDecision, JournalDecision, Update
from ultraedit.storage.factors import write_record
from ultraedit.storage.filerecord import FileRecord
from ultraedit.storage.fingerprint import base_places, fingerprint
from ultraedit.storage.layout import Layout, is_edited_model
from ultraedit.storage.lock import lock
from ultraedit.storage.manifest import Manifest, read_manifest
from ultraedit.storage.shards import read_header
from ultraedit.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Draft:
    """A version whose files are all on disk, and that only the renaming will make count."""

    manifest: Manifest
    decision: Decision
    staged_index: Path
    cards: Path | None


def draft_turn(
    layout: Layout, previous: Manifest, snapshot: Snapshot, update: Update | None
) -> Draft:
    """A further version over the base and the originals that are there."""
    base = Base(previous.base, previous.keys, previous.source, None)
    return _draft(layout, snapshot, base, previous.originals, None, update)


def draft_all(
    layout: Layout,
    snapshot: Snapshot,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    source: Path | None,
    update: Update | None,
) -> Draft:
    """A first version, or one that edits other weights than the version before."""
    if model is None or tokenizer is None:
        raise ValueError("a first version needs the model and the tokenizer")
    scratch, cards = layout.out / f"{TEMPORARY}model", layout.out / f"{TEMPORARY}cards"
    base = build_base(layout, snapshot, model, source, scratch)
    discard(scratch)
    # The model may compute in a wider dtype than it is stored in.
    stored = next((weight.dtype for weight in snapshot.served.values()), model.dtype)
    stage_cards(cards, model, tokenizer, stored, source, base.quantization)
    if snapshot.settings.get("routed"):
        stage_warning(cards, str(snapshot.settings["method"]))
    path = layout.internal / "originals.safetensors"
    if path.exists():
        path = path.with_name(f"originals-{layout.free_tag(snapshot.version)}.safetensors")
    originals = write_record(path, snapshot.originals)
    return _draft(layout, snapshot, base, originals, cards, update)


def _draft(
    layout: Layout,
    snapshot: Snapshot,
    base: Base,
    originals: FileRecord,
    cards: Path | None,
    update: Update | None,
) -> Draft:
    tag = layout.free_tag(snapshot.version)
    masters = snapshot.separate_masters()
    served = {key: snapshot.served[parameter] for parameter, key in base.keys.items()}
    manifest = Manifest(
        version=snapshot.version,
        settings=dict(snapshot.settings),
        keys=dict(base.keys),
        edited=write_record(layout.out / f"edited-{tag}.safetensors", served),
        originals=originals,
        masters=write_record(layout.internal / f"masters-{tag}.safetensors", masters)
        if masters
        else None,
        state=write_record(layout.internal / f"state-{tag}.safetensors", snapshot.state),
        base=dict(base.files),
        source=base.source,
    )
    # All is complete on disk before any of it counts, so that a full disk cannot part it.
    index = _stage_text(layout.index, _index_text(layout.out, manifest))
    decision: Decision
    if update is None:
        decision = FileDecision.prepare(layout, manifest)
    else:
        if not layout.journal.exists() and update.inherit is None:
            digest = fingerprint(base_places(layout.out, manifest))
            identity = {**update.about["base"], "sha256": digest}
            update = replace(update, about={**update.about, "base": identity})
        decision = JournalDecision.prepare(layout, manifest, snapshot, update)
    return Draft(manifest, decision, index, cards)


def commit(layout: Layout, draft: Draft, first: bool) -> None:
    """Make a draft count.

    The index follows the decision: a crash between the two leaves loaders the version
    before until `settle`. Only a first version has none before, so its index goes first.
    """
    if draft.cards is not None:
        move_cards(draft.cards, layout.out)
    if not first:
        draft.decision.commit()
        os.replace(draft.staged_index, layout.index)
        sync_folder(layout.out)
        return
    try:
        os.replace(draft.staged_index, layout.index)
        sync_folder(layout.out)
        draft.decision.commit()
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
            os.replace(_stage_text(layout.index, _index_text(out, manifest)), layout.index)
            sync_folder(out)


def settle_if_free(out: Path) -> None:
    """`settle` where it is needed, nobody else is writing, and the folder can be written."""
    if is_edited_model(out) and not _is_settled(Layout(out), read_manifest(out)):
        with suppress(UltraEditError), lock(out):
            settle(out)


def _is_settled(layout: Layout, manifest: Manifest) -> bool:
    files = (*manifest.base, manifest.edited.name)
    return layout.indexed() == {layout.out / name for name in files}


def _index_text(out: Path, manifest: Manifest) -> str:
    weight_map, total = {}, 0
    for name in (*manifest.base, manifest.edited.name):
        for key, entry in read_header(out / name).tensors.items():
            weight_map[key] = name
            total += entry.size
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2) + "\n"


def _stage_text(path: Path, text: str) -> Path:
    def fill(sink: Measured) -> None:
        sink.write(memoryview(text.encode()))

    return stage(path, fill)[0]
