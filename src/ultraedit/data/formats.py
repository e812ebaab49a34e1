"""Files to numbered records: one reader per format, none of which knows what fields mean."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ultraedit.data.faults import Fault, RecordError, cause, describe, located
from ultraedit.data.jsonstream import MAX_RECORD, decode, read_json
from ultraedit.errors import InputError

Record = dict[str, Any]
OnFault = Callable[[Fault], None]

_END = object()

HUB_PREFIX = "hf:"
_BATCH = 1024
# What pandas, and `datasets` through it, write for a missing value.
_EMPTY_CELLS = frozenset({"", "NaN", "nan", "None"})


def read_records(
    source: str | Path, on_fault: OnFault | None = None
) -> Iterator[tuple[int, Record]]:
    """Records of a file or of a data set on the hub, numbered from 1, one at a time.

    Whether the file exists and has a known suffix is checked at once, the rest while reading.

    Args:
        source: A `.jsonl`, `.json` or `.csv` file (each also with `.gz`), a `.parquet` file,
            or `hf:NAME[:split]` (split `train` unless named).
        on_fault: Called with every broken record that others can be read after, instead of
            raising; it still counts in the numbers.

    Raises:
        InputError: the file cannot be read, or a record of it is broken.
    """
    name = str(source)
    try:
        rows = _hub(name) if name.startswith(HUB_PREFIX) else _file(Path(source))
    except InputError as error:
        raise located(error, name, 0) from None
    return _numbered(rows, name, on_fault)


def _numbered(
    rows: Iterator[object], name: str, on_fault: OnFault | None
) -> Iterator[tuple[int, Record]]:
    number = 0
    while True:
        try:
            row = next(rows, _END)
        except InputError as error:
            raise located(error, name, number + 1) from None
        if row is _END:
            break
        number += 1
        try:
            record = _checked(row)
        except RecordError as error:
            if on_fault is None:
                raise located(error, name, number) from None
            on_fault(Fault(number, error, row if isinstance(row, dict) else error.text))
        else:
            yield number, record
    if not number:
        raise InputError(f"{name}: holds no records")


def absent(value: object) -> bool:
    """Whether a value says that there is none: null, or the NaN that tables use for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _checked(row: object) -> Record:
    if isinstance(row, RecordError):
        raise row
    if not isinstance(row, dict):
        raise RecordError(f"is {describe(row)}, not an object with named fields")
    for field, value in row.items():
        pending = [field, value]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                # Undecodable bytes were read as lone surrogates; JSON escapes can hold them too.
                if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                    shown = str(field).encode("utf-8", "backslashreplace").decode()
                    raise RecordError("is not UTF-8 text", shown)
            elif isinstance(item, dict):
                pending += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                pending += item
    return row


def _file(path: Path) -> Iterator[object]:
    try:
        if path.is_dir():
            raise InputError("is a folder, not a file")
        if not path.exists():
            raise InputError("no such file")
    except OSError as error:
        raise InputError(f"cannot be read ({cause(error)})") from None
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    reader = READERS.get(suffix.lower())
    if reader is None:
        found = f"unknown suffix '{suffix}'" if suffix else "no suffix"
        raise InputError(f"{found}; known are {', '.join(READERS)} and {HUB_PREFIX}NAME[:split]")
    return _guarded(reader, path)


def _guarded(reader: Callable[[Path], Iterator[object]], path: Path) -> Iterator[object]:
    try:
        yield from reader(path)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read ({cause(error)})") from None


def _open(path: Path, newline: str) -> TextIO:
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    # Undecodable bytes are kept until it is known which record and field they are in.
    file: TextIO = opener(
        path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )
    return file


def _jsonl(path: Path) -> Iterator[object]:
    with _open(path, newline="\n") as file:
        while line := file.readline(MAX_RECORD + 1):
            if len(line) > MAX_RECORD:
                raise RecordError(f"is longer than {MAX_RECORD >> 20} million characters")
            if line.strip():
                yield _decoded(line)


def _decoded(line: str) -> object:
    # The next line can be read whatever this one is, unlike with other faults of a file.
    try:
        return decode(line)
    except RecordError as error:
        return RecordError(str(error), error.field, line.rstrip("\n"))


def _json(path: Path) -> Iterator[object]:
    with _open(path, newline="") as file:
        yield from read_json(file)


def _csv(path: Path) -> Iterator[object]:
    with _open(path, newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            if header and (not all(header) or len(set(header)) < len(header)):
                raise InputError("the first row is no header: a name is empty or comes twice")
            for row in rows:
                if row:
                    yield _table_row(header, row)
        except csv.Error as error:
            raise RecordError(f"malformed CSV ({cause(error)}, line {rows.line_num})") from None


def _table_row(header: list[str], row: list[str]) -> object:
    if len(row) != len(header):
        return RecordError(f"has {len(row)} cells, the header has {len(header)}")
    try:
        return {name: _cell(name, cell) for name, cell in zip(header, row, strict=True)}
    except RecordError as error:
        return error


def _cell(name: str, cell: str) -> object:
    """A cell's text, the list or object that it spells in JSON, or None."""
    text = cell.strip()
    if text in _EMPTY_CELLS:
        return None
    # "['a', 'b']" is Python's spelling: taken as text, the brackets would be written to a model.
    if not (text == "[]" or text.startswith(('["', "['", "[{", '{"'))):
        return cell
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError("looks like a list or an object, but is not JSON", name) from None


def _parquet(path: Path) -> Iterator[object]:
    parquet = _optional("pyarrow.parquet", ".parquet files")
    arrow = _optional("pyarrow", ".parquet files")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot be read as parquet ({cause(error)})") from None


def _hub(source: str) -> Iterator[object]:
    name, _, split = source.removeprefix(HUB_PREFIX).partition(":")
    if not name:
        raise InputError(f"names no data set; write {HUB_PREFIX}NAME[:split]")
    return _hub_rows(name, split or "train")


def _hub_rows(name: str, split: str) -> Iterator[object]:
    datasets = _optional("datasets", f"{HUB_PREFIX} data sets")
    try:
        yield from datasets.load_dataset(name, split=split, streaming=True)
    except Exception as error:  # anything: network, scripts, formats, each library its own
        raise InputError(
            f"cannot be read through datasets ({type(error).__name__}: {cause(error)})"
        ) from None


def _optional(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(f"{what} need the package {package}: pip install {package}") from None


READERS: Mapping[str, Callable[[Path], Iterator[object]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl.gz": _jsonl,
    ".json.gz": _json,
    ".csv.gz": _csv,
}
