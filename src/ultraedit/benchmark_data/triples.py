"""Facts of a file: Wikidata5M's own layout, or tables of subject, relation and object."""

from __future__ import annotations

import ast
import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ultraedit.benchmark_data.facts import Fact
from ultraedit.errors import InputError
from ultraedit.progress import Progress

COLUMNS = ("subject", "relation", "object")
BATCH = 50_000
CHUNK = 1 << 20
# Of Wikidata5M (arXiv:1911.06136), in a folder as it is published.
TRIPLES = ("wikidata5m_transductive_train.txt", "wikidata5m_all_triplet.txt")
ENTITIES, RELATIONS = "wikidata5m_entity.txt", "wikidata5m_relation.txt"


@dataclass(frozen=True)
class Source:
    """Where facts come from.

    Attributes:
        path: A table, id triples, or a folder with Wikidata5M's files.
        entities, relations: Of id triples: the files of names, a line each of an id and its names.
    """

    path: Path
    entities: Path | None = None
    relations: Path | None = None

    @staticmethod
    def of(path: Path, entities: Path | None = None, relations: Path | None = None) -> Source:
        """The source, with the files of a folder found by their names.

        Raises:
            InputError: a file is missing, or only one of two was named.
        """
        if path.is_dir():
            entities = entities or _found(path, (ENTITIES,))
            relations = relations or _found(path, (RELATIONS,))
            path = _found(path, TRIPLES)
        for one in (path, entities, relations):
            if one is not None and not one.is_file():
                raise InputError(f"{one}: no such file")
        if (entities is None) != (relations is None):
            raise InputError("id triples need both --entities and --relations")
        return Source(path, entities, relations)

    @property
    def files(self) -> list[Path]:
        return [one for one in (self.path, self.entities, self.relations) if one is not None]

    def batches(self, progress: Progress) -> Iterator[list[Fact]]:
        """The facts in their order, `BATCH` at a time; names that are not found leave a fact out.

        Raises:
            InputError: a file cannot be read, or a line of it is no triple.
        """
        if self.entities is not None and self.relations is not None:
            entities = Names.read(self.entities, progress)
            relations = Names.read(self.relations, progress)
            return _named(_rows(self.path), self.path, entities, relations)
        if _suffix(self.path) == ".parquet":
            return _parquet(self.path)
        return _table(self.path)

    def size(self) -> int:
        """How many facts there are; a table's lines are counted, which takes a second per gigabyte.

        Raises:
            InputError: the file cannot be read.
        """
        if _suffix(self.path) == ".parquet":
            return int(_opened_parquet(self.path).metadata.num_rows)
        try:
            with _open_bytes(self.path) as file:
                lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK), b""))
        except (OSError, EOFError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error
        return max(0, lines - (self.entities is None))


class Names:
    """The first name of every id, in little memory: about 30 bytes beside the name itself.

    Args:
        numbers: (n,) int64, of the ids, ascending.
        offsets: (2, n) int64, where each name begins and ends in `text`.
        text: All names in UTF-8.
    """

    def __init__(self, numbers: NDArray[np.int64], offsets: NDArray[np.int64], text: bytes) -> None:
        self.numbers, self.offsets, self.text = numbers, offsets, text

    @staticmethod
    def read(path: Path, progress: Progress) -> Names:
        """The names of a file of aliases: an id and its names, separated by tabs.

        Raises:
            InputError: a line has another form.
        """
        numbers, lengths, text = _Growing(), _Growing(), io.BytesIO()
        with progress(f"reading {path.name}", None) as advance, _open(path) as file:
            for place, line in enumerate(file, 1):
                identifier, _, rest = line.rstrip("\n").partition("\t")
                name = rest.partition("\t")[0].strip()
                if not identifier[1:].isdigit():
                    raise InputError(f"{path}, line {place}: it does not begin with an id")
                if not name:
                    continue
                numbers.add(int(identifier[1:]))
                lengths.add(text.write(name.encode()))
                if place % 100_000 == 0:
                    advance(100_000)
        found = numbers.array()
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths.array())])
        order = np.argsort(found, kind="stable")
        return Names(
            found[order], np.stack([offsets[:-1][order], offsets[1:][order]]), text.getvalue()
        )

    def of(self, identifiers: Sequence[str]) -> list[str | None]:
        """The name of every id; None where there is none."""
        wanted = np.array(
            [int(one[1:]) if one[1:].isdigit() else -1 for one in identifiers], dtype=np.int64
        )
        if not len(self.numbers):
            return [None] * len(wanted)
        places = np.minimum(np.searchsorted(self.numbers, wanted), len(self.numbers) - 1)
        known = self.numbers[places] == wanted
        begins, ends = self.offsets[:, places].tolist()
        return [
            self.text[begin:end].decode() if is_known else None
            for begin, end, is_known in zip(begins, ends, known.tolist(), strict=True)
        ]


class _Growing:
    """Integers, eight bytes each, however many there will be."""

    def __init__(self) -> None:
        self._full: list[NDArray[np.int64]] = []
        self._last: list[int] = []

    def add(self, value: int) -> None:
        self._last.append(value)
        if len(self._last) == BATCH:
            self._full.append(np.array(self._last, dtype=np.int64))
            self._last = []

    def array(self) -> NDArray[np.int64]:
        return np.concatenate([*self._full, np.array(self._last, dtype=np.int64)])


def _named(
    rows: Iterator[tuple[int, list[str]]], path: Path, entities: Names, relations: Names
) -> Iterator[list[Fact]]:
    for batch in _cut(rows):
        for place, row in batch:
            if len(row) != 3:
                raise InputError(f"{path}, line {place}: {len(row)} columns, not 3")
        columns = list(zip(*(row for _, row in batch), strict=True))
        subjects, objects = entities.of(columns[0]), entities.of(columns[2])
        names = relations.of(columns[1])
        yield [
            Fact(subject or "", relation, thing or "", name or "")
            for subject, relation, thing, name in zip(
                subjects, columns[1], objects, names, strict=True
            )
        ]


def _table(path: Path) -> Iterator[list[Fact]]:
    rows = _rows(path)
    header = [name.strip().lower() for name in next(rows, (0, []))[1]]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InputError(
            f"{path}: its first line names no column {missing[0]!r}; id triples need --entities"
            " and --relations"
        )
    places = [header.index(name) for name in COLUMNS]
    for batch in _cut(rows):
        facts = []
        for place, row in batch:
            if len(row) != len(header):
                raise InputError(
                    f"{path}, line {place}: {len(row)} columns, the first line has {len(header)}"
                )
            facts.append(Fact(*(_name(row[at].strip()) for at in places)))
        yield facts


def _name(cell: str) -> str:
    """A cell's name: the chosen one of a mapping, as KAMEL has where a name has others."""
    if not cell.startswith("{"):
        return cell
    try:
        content = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    chosen = content.get("chosen") if isinstance(content, dict) else None
    return chosen.strip() if isinstance(chosen, str) else cell


def _parquet(path: Path) -> Iterator[list[Fact]]:
    file = _opened_parquet(path)
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise InputError(f"{path}: it has no column {missing[0]!r}")
    for batch in file.iter_batches(batch_size=BATCH, columns=list(COLUMNS)):
        columns = [[str(value or "") for value in batch[name].to_pylist()] for name in COLUMNS]
        yield [Fact(*row) for row in zip(*columns, strict=True)]


def _opened_parquet(path: Path) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table, numbered from 1, cut into columns."""
    try:
        with _open(path) as file:
            if _suffix(path) == ".csv":
                reader = csv.reader(file, strict=True)
                yield from ((reader.line_num, row) for row in reader if row)
                return
            for place, line in enumerate(file, 1):
                if line.strip():
                    yield place, line.rstrip("\r\n").split("\t")
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _cut(rows: Iterator[tuple[int, list[str]]]) -> Iterator[list[tuple[int, list[str]]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _open(path: Path) -> TextIO:
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="")


def _open_bytes(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    return open(path, "rb")


def _suffix(path: Path) -> str:
    """Of the format: that before `.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    known = suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]
    if known not in ([".tsv"], [".txt"], [".csv"], [".parquet"]):
        raise InputError(f"{path}: known are .tsv, .txt, .csv (each also with .gz) and .parquet")
    return known[0]


def _found(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise InputError(f"{folder} holds no {' or '.join(names)}")
