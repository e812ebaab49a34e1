"""A delta and its base, put together into a plain checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download

from ultraedit.errors import InputError
from ultraedit.export import delta as deltas
from ultraedit.export.delta import Delta
from ultraedit.export.plain import Written, finish_shards
from ultraedit.export.staging import new_folder
from ultraedit.models.load import load, resolve
from ultraedit.storage.atomic import write_file
from ultraedit.storage.base import lay_shards, saved_checkpoints
from ultraedit.storage.bits import as_bytes
from ultraedit.storage.checkpoint import Checkpoint, open_checkpoint
from ultraedit.storage.config_files import copy_config_files
from ultraedit.storage.fingerprint import Digest, combined, digests
from ultraedit.storage.layout import Layout, is_edited_model
from ultraedit.storage.shards import DTYPES, copy_tensors

# Files that hold the weights a second time, under names that transformers does not read.
OTHER_WEIGHTS = (
    "*.bin", "*.h5", "*.msgpack", "*.gguf", "*.onnx*", "*.pth", "*.pt", "*.ot",
    "consolidated*.safetensors",
)  # fmt: skip


def apply(
    base: str | Path, delta: str | Path, folder: str | Path, *, remote_code: bool = False
) -> Written:
    """Write the edited model that a delta makes of its base, as a plain checkpoint.

    Args:
        base: Hub id, folder of a plain checkpoint, or `demo`.
        delta: A file that `export.delta.write` wrote.
        folder: What must not be there yet, or be an empty folder.
        remote_code: Whether code of the base's own may be run, to read weights that are not
            safetensors.

    Returns:
        What was written: bit for bit the weights that the edited model served.

    Raises:
        InputError: the delta is damaged, `base` is not what it was made from or cannot be read,
            or `folder` is taken.
        UltraEditError: `folder` cannot be written; nothing is left of it.
    """
    change = deltas.read(delta)
    source = base_folder(base)
    if is_edited_model(source):
        raise InputError(
            f"{base} is an edited model; a delta is applied to the unedited one"
            + (f", {change.base_name}" if change.base_name else "")
        )
    with new_folder(Path(folder), outside=source) as staged:
        checkpoint = _checkpoint(base, source, change, staged.parent / "base", remote_code)
        lay_shards(Layout(staged), checkpoint, change.tensors.keys())
        shards = [*sorted(staged.glob("*.safetensors")), staged / "edited.safetensors"]
        places = {key: (change.path, key) for key in change.tensors}
        write_file(shards[-1], lambda sink: copy_tensors(places, {"format": "pt"}, sink))
        files, size = finish_shards(staged, shards)
        copy_config_files(source, staged, change.dtype or None)
    return Written(Path(folder), change.method, change.turns, change.edits, files, size)


def base_folder(name: str | Path) -> Path:
    """Where a model's files lie; a hub id is downloaded, its safetensors and small files.

    Raises:
        InputError: there is no such model.
    """
    source = Path(resolve(name))
    if source.is_dir():
        return source
    try:
        return Path(snapshot_download(str(name), ignore_patterns=list(OTHER_WEIGHTS)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{name} could not be loaded: {reason[0] if reason else type(error).__name__}"
        ) from error


def _checkpoint(
    base: str | Path, source: Path, change: Delta, scratch: Path, remote_code: bool
) -> Checkpoint:
    """The base's files, once they were found to be what the delta was made from.

    A base without safetensors is read by transformers and saved in `scratch`, as it was when it
    was edited.
    """
    checkpoint, found = open_checkpoint(source), ""
    if checkpoint is not None:
        candidates: Iterable[Checkpoint] = [checkpoint]
    else:
        dtype = change.dtype or "auto"
        model, _ = load(base, dtype=dtype, device="cpu", trust_remote_code=remote_code)
        candidates = saved_checkpoints(model, scratch)
    for checkpoint in candidates:
        if (found := _fingerprint(checkpoint, change)) == change.base:
            return checkpoint
    named = f" {change.base_name}" if change.base_name else ""
    raise InputError(
        f"{base} is not the base of {change.path}: its fingerprint is {found[:16]},"
        f" the delta was made from{named} {change.base[:16]}"
    )


def _fingerprint(checkpoint: Checkpoint, change: Delta) -> str:
    """Of a base, its edited tensors in the dtype that they were edited in."""
    found = digests({key: (path, key) for key, path in checkpoint.owner.items()})
    for key, edited in change.tensors.items():
        if key in found and found[key].dtype != edited.dtype:
            found[key] = _cast(checkpoint, key, edited.dtype)
    return combined(found)


def _cast(checkpoint: Checkpoint, key: str, dtype: str) -> Digest:
    """The digest of a tensor as a model loaded in another dtype than its file's had it."""
    entry = checkpoint.entry(key)
    if entry.dtype not in DTYPES or dtype not in DTYPES:
        return Digest(entry.dtype, entry.shape, "")
    data = as_bytes(checkpoint.tensor(key).to(DTYPES[dtype]))
    return Digest(dtype, entry.shape, hashlib.sha256(data.numpy().data).hexdigest())
