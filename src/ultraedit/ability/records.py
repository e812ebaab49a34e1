"""Records of the ready-made tasks' files: what fields they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultraedit.data.faults import RecordError, describe, located
from ultraedit.data.formats import Record, read_records
from ultraedit.errors import InputError

# So many options have letters in the task files.
MOST_OPTIONS = 10


def read(path: Path, layout: str) -> list[Record]:
    """All records of a file, with the layout's fields and no others.

    Args:
        path: A `.jsonl` file.
        layout: One of `LAYOUTS`.

    Raises:
        InputError: the file cannot be read or is empty, or a record lacks something; file,
            record and field are named.
    """
    convert = LAYOUTS[layout]
    found = []
    for number, record in read_records(path):
        try:
            found.append(convert(record))
        except InputError as error:
            raise located(error, str(path), number) from None
    return found


def _choices(record: Record) -> Record:
    return _options(record, "choices") | {"query": _text(record, "query")}


def _schema(record: Record) -> Record:
    return _options(record, "context_options") | {"continuation": _text(record, "continuation")}


def _continuation(record: Record) -> Record:
    return {name: _text(record, name) for name in ("context", "continuation")}


def _aliases(record: Record) -> Record:
    answer = _text(record, "answer")
    aliases = _texts(record, "aliases") if "aliases" in record else []
    return {
        "context": _text(record, "context"),
        "answer": answer,
        "aliases": aliases if answer in aliases else [answer, *aliases],
    }


def _reasoning(record: Record) -> Record:
    # Some write the number as a number.
    answer = record.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        record = {**record, "answer": str(answer)}
    return {name: _text(record, name) for name in ("context", "chain_of_thought", "answer")}


LAYOUTS: dict[str, Callable[[Record], Record]] = {
    "choices": _choices,
    "schema": _schema,
    "continuation": _continuation,
    "aliases": _aliases,
    "reasoning": _reasoning,
}


def _options(record: Record, name: str) -> Record:
    """The list of options under `name`, and which of them is right."""
    options = _texts(record, name)
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise RecordError(f"holds {len(options)} texts, not 2 to {MOST_OPTIONS}", name)
    gold = _value(record, "gold")
    if isinstance(gold, bool) or not isinstance(gold, int):
        raise RecordError(f"is {describe(gold)}, not the index of an option", "gold")
    if not 0 <= gold < len(options):
        raise RecordError(f"is {gold}, but {name} has {len(options)} entries from 0", "gold")
    return {name: options, "gold": gold}


def _texts(record: Record, name: str) -> list[str]:
    value = _value(record, name)
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise RecordError("is not a list of texts", name)
    return value


def _text(record: Record, name: str) -> str:
    value = _value(record, name)
    if not isinstance(value, str):
        raise RecordError(f"is {describe(value)}, not text", name)
    if not value.strip():
        raise RecordError("is empty", name)
    return value


def _value(record: Record, name: str) -> Any:
    if record.get(name) is None:
        raise RecordError("is missing", name)
    return record[name]
