"""What makes a folder a plain transformers checkpoint: file names, index, and small files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError
from ultraedit.storage.atomic import write_file
from ultraedit.storage.layout import INTERNAL, Layout
from ultraedit.storage.shards import read_header

# What may lie beside a model and is either weights or a trainer's state.
WEIGHTS = frozenset(
    [
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".h5",
        ".msgpack",
        ".ot",
        ".gguf",
        ".ggml",
        ".onnx",
        ".onnx_data",
        ".npz",
        ".npy",
        ".tflite",
        ".mlmodel",
        ".nemo",
        ".pkl",
        ".pickle",
        ".index",
    ]
)
# They describe the model before editing, or an adapter that is not part of it.
LEFT_OUT = frozenset({"README.md", "adapter_config.json"})
NESTED = frozenset({".py", ".jinja"})


@dataclass(frozen=True)
class Written:
    """A plain checkpoint as it was written.

    Args:
        path: Its folder.
        method: What edited it.
        turns: In how many turns.
        edits: How many edits.
        files: The weight files.
        size: Bytes of their tensors.
    """

    path: Path
    method: str
    turns: int
    edits: int
    files: tuple[str, ...]
    size: int


def finish_shards(folder: Path, shards: Sequence[Path]) -> tuple[tuple[str, ...], int]:
    """Give the weight files in `folder` the names that every loader knows, and an index.

    Args:
        folder: A checkpoint in the making.
        shards: Its weight files, in it; no tensor is in two of them.

    Returns:
        The new names, and the bytes of all tensors.
    """
    names = [
        "model.safetensors"
        if len(shards) == 1
        else f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        for n in range(1, len(shards) + 1)
    ]
    weight_map, total = {}, 0
    for path, name in zip(shards, names, strict=True):
        os.rename(path, folder / name)
        for key, entry in read_header(folder / name).tensors.items():
            weight_map[key] = name
            total += entry.size
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_text(Layout(folder).index, json.dumps(index, indent=2) + "\n")
    return tuple(names), total


def copy_cards(source: Path, folder: Path, dtype: str | None) -> None:
    """Copy config, tokenizer, processors, custom code and licence, each file anew.

    A link would let whoever changes the copy's config change the original's.

    Args:
        source: A model's folder, edited or not.
        folder: A checkpoint in the making.
        dtype: What the config is to name as the weights' dtype; None for as it is.
    """
    for path in _cards(source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target == folder / "config.json":
            write_text(target, _config(path, dtype))
        else:
            _write(target, path.read_bytes())


def config_of(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        InputError: it is missing or damaged.
    """
    return _parsed(folder / "config.json", _text(folder / "config.json"))


def dtype_of(config: Mapping[str, Any]) -> str | None:
    """The dtype that a config names, under either of its names."""
    dtype = config.get("dtype", config.get("torch_dtype"))
    return dtype if isinstance(dtype, str) else None


def write_text(path: Path, text: str) -> None:
    """Write a small file and bring it to the disk."""
    _write(path, text.encode())


def _write(path: Path, data: bytes) -> None:
    write_file(path, lambda sink: sink.write(memoryview(data)))


def _cards(source: Path) -> Iterator[Path]:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if inside.parts[0] == INTERNAL or any(part.startswith(".") for part in inside.parts):
            continue
        if path.suffix in WEIGHTS or path.name.endswith(".index.json") or path.name in LEFT_OUT:
            continue
        # Deeper down lie other things, but custom code and chat templates are read from there.
        if path.is_file() and (path.parent == source or path.suffix in NESTED):
            yield path


def _config(path: Path, dtype: str | None) -> str:
    text = _text(path)
    config = _parsed(path, text)
    renamed = config.pop("transformers_weights", None) is not None
    if dtype is not None and dtype_of(config) != dtype:
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    elif not renamed:
        return text
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a JSON object") from error
    return config
