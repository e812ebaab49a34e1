"""The safetensors format, read and written as streams.

The safetensors library cannot drop a tensor from a file without loading the rest, and
reports a full disk as an error without a number; both are needed here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.storage.bits import as_bytes

METADATA = "__metadata__"
ALIGNMENT = 8
LONGEST_HEADER = 100_000_000  # the library's own limit
BUFFER = 8 * 2**20

CODES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES: Mapping[str, torch.dtype] = {code: dtype for dtype, code in CODES.items()}


# Tensor name -> (safetensors file, the tensor's name inside it).
Places = Mapping[str, tuple[Path, str]]


class Sink(Protocol):
    """Anything bytes can be written to."""

    def write(self, data: memoryview, /) -> object:
        """Write all of `data`."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; `start` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def width(self) -> float:
        """Bytes per element, for any dtype that the format has or will have."""
        return self.size / max(math.prod(self.shape), 1)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself; tensors in the order it lists them."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str] | None
    data_start: int


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        InputError: the file is not a whole safetensors file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise InputError(f"{path} is no safetensors file, or a truncated one")
        text = stream.read(length)
    try:
        listed = json.loads(text)
        metadata = listed.pop(METADATA, None)
        tensors = {
            name: Entry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in listed.items()
        }
        end = max((entry.end for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} has a damaged safetensors header") from error
    if size != 8 + length + end:
        raise InputError(f"{path} is truncated or altered: its size does not fit its header")
    return Header(tensors, metadata, 8 + length)


def copy_without(path: Path, drop: Collection[str], sink: Sink) -> None:
    """Copy a safetensors file less some of its tensors, a few megabytes at a time.

    Args:
        path: The file to read.
        drop: Names of the tensors to leave out.
        sink: What to write the new file to.
    """
    header = read_header(path)
    kept = {name: (path, name) for name in header.tensors if name not in drop}
    copy_tensors(kept, header.metadata, sink)


def copy_tensors(places: Places, metadata: Mapping[str, str] | None, sink: Sink) -> None:
    """Write a safetensors file of tensors that lie in others, a few megabytes at a time.

    Args:
        places: Name in the new file -> (file, name in that).
        metadata: The new file's.
        sink: What to write it to.

    Raises:
        InputError: a file is not a whole safetensors file.
        OSError: a file became shorter meanwhile.
    """
    headers = {path: read_header(path) for path in {path for path, _ in places.values()}}
    entries = {key: headers[path].tensors[name] for key, (path, name) in places.items()}
    packed = _packed(entries)
    _write_header(packed, metadata, sink)
    for key in packed:
        path, _ = places[key]
        with open(path, "rb") as stream:
            stream.seek(headers[path].data_start + entries[key].start)
            for block in _blocks(stream, entries[key].size, path):
                sink.write(block)


def write_tensors(tensors: Mapping[str, Tensor], sink: Sink) -> None:
    """Write tensors in the safetensors format, one at a time.

    Raises:
        ValueError: a name or a dtype that the format cannot hold.
    """
    entries = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in CODES:
            raise ValueError(f"{name}: safetensors cannot hold {tensor.dtype}")
        size = tensor.numel() * tensor.element_size()
        entries[name] = Entry(CODES[tensor.dtype], tuple(tensor.shape), 0, size)
    packed = _packed(entries)
    # Listed in the caller's order, which `read_tensors` gives back, however they lie.
    _write_header({name: packed[name] for name in tensors}, {"format": "pt"}, sink)
    for name in packed:
        sink.write(as_bytes(tensors[name]).numpy().data)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file into memory that nothing else refers to.

    Memory of its own, rather than a mapping of the file: version files are deleted by
    later turns, and a mapped file that someone truncates kills the process.

    Raises:
        InputError: the file is not a whole safetensors file.
    """
    header = read_header(path)
    with open(path, "rb") as stream:
        return {
            name: _read_entry(stream, header.data_start, entry, path)
            for name, entry in header.tensors.items()
        }


def read_tensor(path: Path, header: Header, name: str) -> Tensor:
    """Read one tensor of a file whose header is known."""
    with open(path, "rb") as stream:
        return _read_entry(stream, header.data_start, header.tensors[name], path)


def _read_entry(stream: BufferedReader, data_start: int, entry: Entry, path: Path) -> Tensor:
    try:
        data = torch.empty(entry.size, dtype=torch.uint8)
        stream.seek(data_start + entry.start)
        if stream.readinto(data.numpy().data) != entry.size:
            raise ValueError("too short")
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} holds a tensor that cannot be read ({entry.dtype})") from error


def _packed(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Lay tensors end to end, widest elements first so that each stays aligned."""
    position, packed = 0, {}
    order = sorted(entries, key=lambda name: (-entries[name].width, entries[name].start))
    for name in order:
        entry = entries[name]
        packed[name] = Entry(entry.dtype, entry.shape, position, position + entry.size)
        position += entry.size
    return packed


def _write_header(
    entries: Mapping[str, Entry], metadata: Mapping[str, str] | None, sink: Sink
) -> None:
    if METADATA in entries:
        raise ValueError(f"no tensor can be called {METADATA}")
    listed: dict[str, object] = {} if metadata is None else {METADATA: dict(metadata)}
    for name, entry in entries.items():
        listed[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.end],
        }
    text = json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    sink.write(memoryview(len(text).to_bytes(8, "little")))
    sink.write(memoryview(text))


def _blocks(stream: BufferedReader, size: int, path: Path) -> Iterator[memoryview]:
    while size:
        block = stream.read(min(size, BUFFER))
        if not block:
            raise OSError(f"{path} became shorter while it was copied")
        size -= len(block)
        yield memoryview(block)
