"""The edited weights alone, in one file that knows which base they belong to.

An ordinary safetensors file: the served weights of the edited modules under the names that
they have in the checkpoint. Its metadata says what they are edits of, and carries a
checksum over itself and all tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.export.source import at_one_version, check_served, origin, require_format
from ultraedit.export.staging import new_file
from ultraedit.storage.atomic import write_file
from ultraedit.storage.config_files import config_of, dtype_of
from ultraedit.storage.fingerprint import Digest, check_base, combined, digests
from ultraedit.storage.layout import Layout
from ultraedit.storage.manifest import Manifest
from ultraedit.storage.shards import copy_tensors, read_header

FORMAT = 1
FORMAT_KEY = "ultraedit_delta"
SEAL = "sha256"


@dataclass(frozen=True)
class Delta:
    """A delta whose content was found to be what was written.

    Args:
        path: The file.
        base: Fingerprint of the checkpoint it is applied to.
        base_name: What that checkpoint was called; for people.
        dtype: The dtype the edited model was served in; empty where its config had none.
        method: What edited it.
        turns: In how many turns.
        edits: How many edits.
        ultraedit: The version that wrote the file.
        tensors: Tensor name in the checkpoint -> what it holds here.
    """

    path: Path
    base: str
    base_name: str
    dtype: str
    method: str
    turns: int
    edits: int
    ultraedit: str
    tensors: Mapping[str, Digest]


def write(out: str | Path, path: str | Path) -> Delta:
    """Write the served weights of an edited model's edited modules into one file.

    Args:
        out: An edited model.
        path: The file; must not be there yet.

    Raises:
        InputError: `out` is no edited model or is damaged, its method does not leave as a
            delta, or `path` is taken.
        UltraEditError: `path` cannot be written; nothing is left of it.
    """
    out, path = Path(out), Path(path)
    return at_one_version(out, lambda manifest: _write(out, manifest, path))


def read(path: str | Path) -> Delta:
    """Read what a delta says of itself and check that all of it is as it was written.

    Raises:
        InputError: the file is no delta, or was truncated or altered.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    try:
        header = read_header(path)
        metadata = header.metadata
        if not isinstance(metadata, dict) or FORMAT_KEY not in metadata:
            raise InputError(f"{path} is no delta: `ultraedit export --format delta` writes them")
        if int(metadata[FORMAT_KEY]) > FORMAT:
            raise InputError(
                f"{path} has format {metadata[FORMAT_KEY]}, this ultraedit reads up to {FORMAT}:"
                " update ultraedit"
            )
        parts = digests({key: (path, key) for key in header.tensors})
        if metadata[SEAL] != _seal(metadata, parts):
            raise InputError(f"{path} was altered: its checksum is not the recorded one")
        return _delta(path, metadata, parts)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is damaged: it is not the delta that was written") from error


def _write(out: Path, manifest: Manifest, path: Path) -> Delta:
    require_format(manifest, "delta")
    with new_file(path, outside=out) as staged:
        check_served(out, manifest)
        places = {key: (Layout(out).edited(manifest.edited), key) for key in manifest.keys.values()}
        parts = digests(places)
        settings = manifest.settings
        metadata = {
            "format": "pt",
            FORMAT_KEY: str(FORMAT),
            "base": check_base(out, manifest),
            "base_name": origin(out, manifest).name or "",
            "dtype": dtype_of(config_of(out)) or "",
            "method": str(settings["method"]),
            "turns": str(settings["turns"]),
            "edits": str(settings["edits"]),
            "ultraedit": version("ultraedit"),
        }
        metadata[SEAL] = _seal(metadata, parts)
        write_file(staged, lambda sink: copy_tensors(places, metadata, sink))
    return _delta(path, metadata, parts)


def _seal(metadata: Mapping[str, str], parts: Mapping[str, Digest]) -> str:
    """A checksum over every word of the metadata but itself, and over all tensors."""
    said = sorted((key, value) for key, value in metadata.items() if key != SEAL)
    return hashlib.sha256(json.dumps([said, combined(parts)]).encode()).hexdigest()


def _delta(path: Path, metadata: Mapping[str, str], parts: Mapping[str, Digest]) -> Delta:
    return Delta(
        path=path,
        base=metadata["base"],
        base_name=metadata["base_name"],
        dtype=metadata["dtype"],
        method=metadata["method"],
        turns=int(metadata["turns"]),
        edits=int(metadata["edits"]),
        ultraedit=metadata["ultraedit"],
        tensors=parts,
    )
