"""What makes weight files a plain transformers checkpoint: their names and their index."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ultraedit.storage.config_files import write_text
from ultraedit.storage.layout import Layout
from ultraedit.storage.shards import read_header


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
