"""Reading the folder that a model was loaded from: its files, and what it calls its weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.storage.bits import same_bits
from ultraedit.storage.layout import Layout, is_edited_model
from ultraedit.storage.manifest import read_manifest
from ultraedit.storage.shards import DTYPES, Entry, Header, read_header, read_tensor

QUANTIZATION = "quantization_config"


@dataclass(frozen=True)
class Checkpoint:
    """The safetensors files of a folder, in the order in which transformers reads them.

    Args:
        headers: File -> its header.
        owner: Tensor -> the file it is read from. The last file wins where several have
            it, as in transformers.
        known: Parameter -> tensor, for the weights that an edited model has edited.
        quantization: What the folder's own config says about quantisation.
    """

    headers: Mapping[Path, Header]
    owner: Mapping[str, Path]
    known: Mapping[str, str]
    quantization: object

    def entry(self, key: str) -> Entry:
        """Dtype, shape and place of a tensor."""
        return self.headers[self.owner[key]].tensors[key]

    def tensor(self, key: str) -> Tensor:
        """A tensor's values."""
        path = self.owner[key]
        return read_tensor(path, self.headers[path], key)


def open_checkpoint(folder: Path) -> Checkpoint | None:
    """Look into a local model folder.

    Returns:
        None when it has no safetensors files, or not all of them.

    Raises:
        InputError: a file that should be safetensors is not.
    """
    files, known = _files(folder)
    if not files or not all(path.is_file() for path in files):
        return None
    headers = {path: read_header(path) for path in files}
    owner = {key: path for path, header in headers.items() for key in header.tensors}
    return Checkpoint(headers, owner, known, _json(folder / "config.json").get(QUANTIZATION))


def match_keys(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Find what a checkpoint calls the given parameters of the model loaded from it.

    transformers renames weights on loading, and converts some of them. So a name is only
    a hint: the tensor must also hold the very values, or linking the rest of the folder
    would build a model that never was.

    Args:
        checkpoint: Where to look.
        weights: Parameter -> the values it has there.

    Returns:
        Parameter -> tensor name, or None when one has no certain counterpart.
    """
    found: dict[str, str] = {}
    for parameter, weight in weights.items():
        key = checkpoint.known.get(parameter)
        if key is None:
            key = closest_key(parameter, _of_shape(checkpoint, tuple(weight.shape)))
            if key is None or not _holds(checkpoint, key, weight):
                return None
        elif key not in _of_shape(checkpoint, tuple(weight.shape)):
            return None
        found[parameter] = key
    return found if len(set(found.values())) == len(found) else None


def closest_key(parameter: str, keys: Collection[str]) -> str | None:
    """The key that is `parameter`, else the only one that shares the longest dotted ending."""
    if parameter in keys:
        return parameter
    shared = {key: _shared_ending(parameter.split("."), key.split(".")) for key in keys}
    longest = max(shared.values(), default=0)
    best = [key for key, length in shared.items() if length == longest]
    return best[0] if longest and len(best) == 1 else None


def _files(folder: Path) -> tuple[list[Path], Mapping[str, str]]:
    if is_edited_model(folder):
        # Not through the index: after a crash it may be one version ahead of editor.json.
        manifest = read_manifest(folder)
        files = [folder / name for name in manifest.base]
        return [*files, Layout(folder).edited(manifest.edited)], manifest.keys
    explicit = _json(folder / "config.json").get("transformers_weights")
    first = folder / (explicit if isinstance(explicit, str) else "model.safetensors")
    index = first if first.suffix == ".json" else Layout(folder).index
    if first != index and first.is_file():
        return [first], {}
    weight_map = _json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        return [], {}
    return [folder / name for name in sorted(set(weight_map.values()))], {}


def _of_shape(checkpoint: Checkpoint, shape: tuple[int, ...]) -> list[str]:
    return [key for key in checkpoint.owner if checkpoint.entry(key).shape == shape]


def _holds(checkpoint: Checkpoint, key: str, weight: Tensor) -> bool:
    if checkpoint.entry(key).dtype not in DTYPES:
        return False
    return same_bits(checkpoint.tensor(key).to(weight.dtype), weight)


def _shared_ending(first: list[str], second: list[str]) -> int:
    length = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        length += 1
    return length


def _json(path: Path) -> dict[str, object]:
    """The object in a JSON file; an empty one where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is not JSON") from error
    return content if isinstance(content, dict) else {}
