"""One digest for the values of a checkpoint, however its files are cut."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.storage.checkpoint import open_checkpoint
from ultraedit.storage.filerecord import check_size
from ultraedit.storage.journal import Journal
from ultraedit.storage.layout import Layout, is_edited_model
from ultraedit.storage.manifest import Manifest, read_manifest
from ultraedit.storage.shards import BUFFER, Entry, Header, Places, read_header

# Each holds one buffer; more would wait for the disk.
WORKERS = 4


@dataclass(frozen=True)
class Digest:
    """What the fingerprint of a checkpoint takes from one tensor.

    Args:
        dtype: Its code in the safetensors format.
        shape: Its shape.
        sha256: Of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def fingerprint(places: Places) -> str:
    """A digest of named tensors that does not depend on how files hold them.

    Args:
        places: Published tensor name -> (safetensors file, the tensor's name inside it).

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: a file is missing or damaged, or does not hold the tensor.
    """
    return combined(digests(places))


def fingerprint_of(folder: str | Path) -> str:
    """The fingerprint of a plain checkpoint, or of the base that an edited model was made from.

    The base of an edited model has the fingerprint of the folder it was edited from, provided
    that it was edited in the dtype of its files: the originals are kept as they were served.

    Raises:
        InputError: the folder has no safetensors, or a file is missing or damaged.
    """
    folder = Path(folder)
    if is_edited_model(folder):
        return fingerprint(base_places(folder, read_manifest(folder)))
    return fingerprint(checkpoint_places(folder))


def checkpoint_places(folder: Path) -> dict[str, tuple[Path, str]]:
    """Where the tensors of a plain checkpoint lie.

    Raises:
        InputError: the folder has no safetensors, or not all of them.
    """
    checkpoint = open_checkpoint(folder)
    if checkpoint is None:
        raise InputError(f"{folder} has no safetensors files, or not all that its index names")
    return {key: (path, key) for key, path in checkpoint.owner.items()}


def base_places(out: Path, manifest: Manifest) -> dict[str, tuple[Path, str]]:
    """Where the tensors that an edited model had before any edit lie.

    Raises:
        InputError: a file is missing, truncated or altered.
    """
    places: dict[str, tuple[Path, str]] = {}
    for name, size in manifest.base.items():
        check_size(out / name, size)
        places |= {key: (out / name, key) for key in read_header(out / name).tensors}
    originals = manifest.originals.check(Layout(out).internal)
    return places | {key: (originals, parameter) for parameter, key in manifest.keys.items()}


def check_base(out: Path, manifest: Manifest) -> str:
    """The fingerprint of an edited model's base, if the journal does not say another.

    Raises:
        InputError: a file is missing, truncated or altered.
    """
    found = fingerprint(base_places(out, manifest))
    path = Layout(out).journal
    if path.is_file():
        with Journal(path) as journal:
            known = journal.head().about["base"].get("sha256", found)
        if known != found:
            raise InputError(
                f"the base shards of {out} were altered: their fingerprint is {found} instead of"
                f" {known}"
            )
    return found


def digests(places: Places) -> dict[str, Digest]:
    """The digest of every tensor, read in buffers of a few megabytes.

    Raises:
        InputError: a file is missing or damaged, or does not hold the tensor.
    """
    headers = _headers(path for path, _ in places.values())
    for path, name in places.values():
        if name not in headers[path].tensors:
            raise InputError(f"{path} holds no tensor {name}")
    # In the order of the files, which is the order in which a disk reads fastest.
    order = sorted(places, key=lambda key: _position(places[key], headers))

    def digest(key: str) -> Digest:
        path, name = places[key]
        header = headers[path]
        entry = header.tensors[name]
        return Digest(entry.dtype, entry.shape, _hash(path, header.data_start, entry))

    # hashlib frees the interpreter's lock, so threads hash side by side.
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        return dict(zip(order, pool.map(digest, order), strict=True))


def combined(parts: Mapping[str, Digest]) -> str:
    """One digest of the tensors' digests, the same for any order of theirs."""
    whole = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name]
        line = json.dumps([name, part.dtype, list(part.shape), part.sha256])
        whole.update(line.encode() + b"\n")
    return whole.hexdigest()


def _headers(paths: Iterable[Path]) -> dict[Path, Header]:
    headers: dict[Path, Header] = {}
    for path in paths:
        if path not in headers:
            try:
                headers[path] = read_header(path)
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return headers


def _position(place: tuple[Path, str], headers: Mapping[Path, Header]) -> tuple[str, int]:
    path, name = place
    return str(path), headers[path].tensors[name].start


def _hash(path: Path, data_start: int, entry: Entry) -> str:
    content = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as stream:
            stream.seek(data_start + entry.start)
            left = entry.size
            buffer = memoryview(bytearray(max(min(left, BUFFER), 0)))
            while left > 0:
                count = stream.readinto(buffer[: min(left, BUFFER)])
                if not count:
                    raise InputError(f"{path} became shorter while it was read")
                content.update(buffer[:count])
                left -= count
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return content.hexdigest()
