"""Base shards: every tensor that is not edited, linked from where it is or copied once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import discard, place, write_file
from ultraedit.storage.checkpoint import Checkpoint, match_keys, open_checkpoint
from ultraedit.storage.layout import Layout
from ultraedit.storage.shards import copy_without
from ultraedit.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAVED_SHARD = "2GB"  # so that leaving edited tensors out copies little, and little twice


@dataclass(frozen=True)
class Base:
    """The base shards of an OUT.

    Args:
        files: Name -> size.
        keys: Edited parameter -> the name its tensor has among theirs.
        source: Where they came from, for people.
        quantization: What the config must say about their quantisation.
    """

    files: Mapping[str, int]
    keys: Mapping[str, str]
    source: str | None
    quantization: object


def build_base(
    layout: Layout, snapshot: Snapshot, model: PreTrainedModel, source: Path | None, scratch: Path
) -> Base:
    """Lay down base shards, from the source's files where they fit and from the model elsewhere.

    Args:
        layout: The OUT to write into.
        snapshot: Says which parameters are edited.
        model: The edited model.
        source: The folder the model was loaded from, if it was.
        scratch: A folder in OUT that is not there yet, for the model's own saving.

    Raises:
        UltraEditError: the model cannot be saved with its edited weights apart.
    """
    checkpoint = open_checkpoint(source) if source is not None and source.is_dir() else None
    keys = match_keys(checkpoint, snapshot.originals) if checkpoint else None
    if checkpoint is not None and keys is not None:
        files = lay_shards(layout, checkpoint, set(keys.values()))
        return Base(files, keys, str(source), checkpoint.quantization)
    if snapshot.settings.get("quantised_by"):
        raise UltraEditError(
            f"the weights that the model was loaded from are not in {source} any more, and those"
            " in memory are quantised"
        )
    # The published tensor names serve every loader. Where an edited weight has no tensor
    # of its own under them (fused experts, say), transformers reads the model's names too.
    saved = {name: model.get_parameter(name) for name in snapshot.served}
    for published in (True, False):
        discard(scratch)
        model.save_pretrained(scratch, max_shard_size=SAVED_SHARD, save_original_format=published)
        checkpoint = open_checkpoint(scratch)
        keys = match_keys(checkpoint, saved) if checkpoint else None
        if checkpoint is not None and keys is not None:
            files = lay_shards(layout, checkpoint, set(keys.values()))
            name = None if source is None else str(source)
            return Base(files, keys, name, checkpoint.quantization)
    raise UltraEditError(
        f"cannot save {type(model).__name__}: its checkpoint does not hold the edited weights"
    )


def lay_shards(layout: Layout, checkpoint: Checkpoint, edited: Collection[str]) -> dict[str, int]:
    """Link the files without edited tensors; copy the others without those.

    Returns:
        Name -> size of each shard in OUT. No tensor is in two of them.
    """
    kept = {
        path: {key for key in header.tensors if checkpoint.owner[key] == path} - set(edited)
        for path, header in checkpoint.headers.items()
    }
    paths = [path for path in checkpoint.headers if kept[path]]
    prefix = layout.free_base()
    sizes = {}
    for number, path in enumerate(paths, start=1):
        target = layout.out / f"{prefix}-{number:05d}-of-{len(paths):05d}.safetensors"
        drop = checkpoint.headers[path].tensors.keys() - kept[path]
        if drop:
            _copy_rest(path, drop, target)
        else:
            place(path, target)
        sizes[target.name] = target.stat().st_size
    return sizes


def _copy_rest(path: Path, drop: Collection[str], target: Path) -> None:
    write_file(target, lambda sink: copy_without(path, drop, sink))
