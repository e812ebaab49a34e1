"""Records to files: one file, or a folder of shards as data sets have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ultraedit.benchmark_data.facts import Record
from ultraedit.storage.atomic import sync_file

Format = Literal["jsonl", "parquet"]
BATCH = 10_000


def write_records(records: Iterable[Record], path: Path) -> int:
    """Write a new file in the format of its name to the disk; returns how many records it has."""
    count = (_parquet if path.suffix == ".parquet" else _jsonl)(iter(records), path)
    sync_file(path)
    return count


def read_records(paths: Sequence[Path], seed: int | None = None) -> Iterator[Record]:
    """The records of `.jsonl` files that `write_records` wrote.

    Args:
        paths: The files.
        seed: Of a random order; None for their own. It takes eight bytes a record of memory.
    """
    if seed is None:
        for path in paths:
            with open(path, "rb") as file:
                for line in file:
                    yield Record(**json.loads(line))
        return
    begins, files = [], []
    for number, path in enumerate(paths):
        with open(path, "rb") as file:
            lengths = np.array([0, *(len(line) for line in file)], dtype=np.int64)
        begins.append(np.cumsum(lengths)[:-1])
        files.append(np.full(len(lengths) - 1, number, dtype=np.int32))
    where, whose = np.concatenate(begins), np.concatenate(files)
    with ExitStack() as stack:
        opened = [stack.enter_context(open(path, "rb")) for path in paths]
        for place in np.random.default_rng(seed).permutation(len(where)):
            file = opened[whose[place]]
            file.seek(int(where[place]))
            yield Record(**json.loads(file.readline()))


def _jsonl(records: Iterator[Record], path: Path) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(records: Iterator[Record], path: Path) -> int:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(field.name, pyarrow.string()) for field in fields(Record)])
    count = 0
    with ParquetWriter(path, schema) as writer:
        while batch := list(islice(records, BATCH)):
            rows: list[dict[str, Any]] = [record.to_json() for record in batch]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            count += len(batch)
    return count
