"""GGUF files, copied byte for byte but for some tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ultraedit.errors import InputError, UltraEditError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFReader

# Magic, version, and the numbers of tensors and of keys.
HEADER = 24
STRING = 8
CHUNK = 1 << 24


@dataclass(frozen=True, eq=False)
class Replacement:
    """A tensor in place of one of a file.

    Attributes:
        kind: Its type.
        data: (rows, bytes) uint8, or (rows, columns) of a plain type.
    """

    kind: GGMLQuantizationType
    data: NDArray[Any]


def require_gguf() -> Any:
    """Package gguf.

    Raises:
        InputError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            f"GGUF needs package gguf: pip install 'ultraedit[gguf]' ({error})"
        ) from error
    return gguf


def opened(path: Path) -> GGUFReader:
    """A reader of a file, which is mapped and not read.

    Raises:
        InputError: the file is missing, damaged, or big-endian.
    """
    gguf = require_gguf()
    try:
        reader = gguf.GGUFReader(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # the reader's own, numpy's and struct's
        raise InputError(f"{path} is no GGUF file that can be read: {error}") from None
    if reader.byte_order != "I":
        raise InputError(f"{path} is big-endian, which is not supported")
    return reader  # type: ignore[no-any-return]


def quantised(weight: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[Any]:
    """A matrix in a type of GGUF.

    Raises:
        InputError: package gguf cannot write this type, or not for rows of this length.
    """
    gguf = require_gguf()
    try:
        return gguf.quants.quantize(np.ascontiguousarray(weight), kind)  # type: ignore[no-any-return]
    except NotImplementedError:
        raise InputError(
            f"package gguf cannot write {kind.name}; --type q8_0, f16 or f32 can be written"
        ) from None
    except (ValueError, gguf.QuantError) as error:
        raise InputError(f"rows of {weight.shape[1]} cannot be {kind.name}: {error}") from None


def write_replaced(
    base: Path, target: Path, replaced: Mapping[str, Replacement], added: Mapping[str, str]
) -> None:
    """Write a file anew with some tensors replaced.

    Args:
        base: The file. All its other tensors and all its keys are copied as bytes.
        target: The new file.
        replaced: By the tensor's name.
        added: Keys with text, written last; keys of these names in the base are left out.

    Raises:
        InputError: the base cannot be read, or has no such tensor.
        UltraEditError: what was written is not what it should be.
    """
    reader = opened(base)
    names = {tensor.name for tensor in reader.tensors}
    for name in replaced:
        if name not in names:
            raise InputError(f"{base} has no tensor {name}")
    with open(base, "rb") as source, open(target, "wb") as sink:
        _write(reader, source, sink, replaced, added)
    check_replaced(base, target, set(replaced), set(added))


def _write(
    reader: GGUFReader,
    source: BinaryIO,
    sink: BinaryIO,
    replaced: Mapping[str, Replacement],
    added: Mapping[str, str],
) -> None:
    header = source.read(HEADER)
    kept = [(at, size) for key, at, size in _keys(reader) if key not in added]
    sink.write(header[:16] + struct.pack("<Q", len(kept) + len(added)))
    for at, size in kept:
        _copy(source, sink, at, size)
    for key, value in added.items():
        sink.write(_text(key) + struct.pack("<I", STRING) + _text(value))
    at = 0
    for tensor in reader.tensors:
        new = replaced.get(tensor.name)
        kind = tensor.tensor_type if new is None else new.kind
        shape = [int(n) for n in tensor.shape]
        sink.write(_text(tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        sink.write(struct.pack("<IQ", int(kind), at))
        at += _padded(tensor.n_bytes if new is None else new.data.nbytes, reader.alignment)
    sink.write(b"\0" * (_padded(sink.tell(), reader.alignment) - sink.tell()))
    for tensor in reader.tensors:
        new = replaced.get(tensor.name)
        if new is None:
            _copy(source, sink, int(tensor.data_offset), int(tensor.n_bytes))
        else:
            sink.write(np.ascontiguousarray(new.data).tobytes())
        sink.write(b"\0" * (_padded(sink.tell(), reader.alignment) - sink.tell()))


def check_replaced(base: Path, target: Path, replaced: set[str], added: set[str]) -> None:
    """Check that nothing but the replaced tensors and the added keys differs, byte by byte.

    Raises:
        UltraEditError: something does.
    """
    first, second = opened(base), opened(target)
    keys = {key: (at, size) for key, at, size in _keys(second) if key not in added}
    with open(base, "rb") as one, open(target, "rb") as other:
        wanted = [found for found in _keys(first) if found[0] not in added]
        same = [key for key, _, _ in wanted] == list(keys)
        for key, at, size in wanted if same else ():
            same = same and _read(one, at, size) == _read(other, *keys[key])
        same = same and [t.name for t in first.tensors] == [t.name for t in second.tensors]
        for before, after in zip(first.tensors, second.tensors, strict=True) if same else ():
            same = same and list(before.shape) == list(after.shape)
            if before.name not in replaced:
                same = same and before.tensor_type == after.tensor_type
                same = same and bool(np.array_equal(before.data, after.data))
    if not same:
        raise UltraEditError(f"{target} is not {base} with other weights: it was not written right")


def _keys(reader: GGUFReader) -> list[tuple[str, int, int]]:
    """Name, place and size of every key with its value, in the file's order."""
    found = [(int(f.offset), n) for n, f in reader.fields.items() if not n.startswith("GGUF.")]
    ends = [at for at, _ in found[1:]] + [int(reader.tensors[0].field.offset)]
    return [(name, at, end - at) for (at, name), end in zip(found, ends, strict=True)]


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _padded(size: int, alignment: int) -> int:
    return -(-int(size) // alignment) * alignment


def _copy(source: BinaryIO, sink: BinaryIO, at: int, size: int) -> None:
    source.seek(at)
    while size:
        content = source.read(min(size, CHUNK))
        if not content:
            raise InputError("the base ends before its last tensor")
        sink.write(content)
        size -= len(content)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
