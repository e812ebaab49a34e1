"""Base shards: every tensor that is not edited, linked from where it is or copied once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import discard, place, write_file
from ultraedit.storage.checkpoint import Checkpoint, match_keys, open_checkpoint
from ultraedit.storage.layout import Layout
from ultraedit.storage.shards import DTYPES, copy_without
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
        dtype: Of the edited tensors in the files that they came from.
    """

    files: Mapping[str, int]
    keys: Mapping[str, str]
    source: str | None
    quantization: object
    dtype: str | None = None


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
        return Base(files, keys, str(source), checkpoint.quantization, _dtype(checkpoint, keys))
    if snapshot.settings.get("quantised_by"):
        raise UltraEditError(
            f"the weights that the model was loaded from are not in {source} any more, and those"
            " in memory are quantised"
        )
    saved = {name: model.get_parameter(name) for name in snapshot.served}
    for checkpoint in saved_checkpoints(model, scratch):
        keys = match_keys(checkpoint, saved)
        if keys is not None:
            files = lay_shards(layout, checkpoint, set(keys.values()))
            name = None if source is None else str(source)
            return Base(files, keys, name, checkpoint.quantization, _dtype(checkpoint, keys))
    raise UltraEditError(
        f"cannot save {type(model).__name__}: its checkpoint does not hold the edited weights"
    )


def saved_checkpoints(model: PreTrainedModel, scratch: Path) -> Iterator[Checkpoint]:
    """A model saved as safetensors, under each set of names that transformers reads.

    The published names come first: they serve every loader. Where an edited weight has no
    tensor of its own under them (fused experts, say), the model's own names follow.

    Args:
        model: What to save.
        scratch: A folder that holds the last one that was asked for.
    """
    for published in (True, False):
        discard(scratch)
        model.save_pretrained(scratch, max_shard_size=SAVED_SHARD, save_original_format=published)
        if (checkpoint := open_checkpoint(scratch)) is not None:
            yield checkpoint


def _dtype(checkpoint: Checkpoint, keys: Mapping[str, str]) -> str | None:
    dtypes = {DTYPES.get(checkpoint.entry(key).dtype) for key in keys.values()}
    return str(dtypes.pop()).removeprefix("torch.") if len(dtypes) == 1 else None


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
    sizes = {}
    for number, path in enumerate(paths, start=1):
        target = layout.out / f"model-base-{number:05d}-of-{len(paths):05d}.safetensors"
        drop = checkpoint.headers[path].tensors.keys() - kept[path]
        if drop:
            _copy_rest(path, drop, target)
        else:
            place(path, target)
        sizes[target.name] = target.stat().st_size
    return sizes


def _copy_rest(path: Path, drop: Collection[str], target: Path) -> None:
    write_file(target, lambda sink: copy_without(path, drop, sink))
