"""What the rest of the project reads: cases to edit with, and prompts to check with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ultraedit.data.cases import to_case, to_prompts
from ultraedit.data.faults import Fault, located
from ultraedit.data.formats import OnFault, Record, read_records
from ultraedit.data.layouts import find_layout, unread_questions
from ultraedit.errors import InputError
from ultraedit.records import Case, Edit

T = TypeVar("T")


class UnreadFieldWarning(UserWarning):
    """A file has questions in fields that its layout does not read."""


def read_cases(
    source: str | Path,
    *,
    limit: int | None = None,
    check: Callable[[Edit, int], None] | None = None,
    on_fault: OnFault | None = None,
) -> Iterator[Case]:
    """Cases of a file or of a data set on the hub, one at a time, in constant memory.

    Fields that look like questions and are not read are named in one warning for a file.

    Args:
        source: A `.jsonl`, `.json`, `.csv` or `.parquet` file, or `hf:NAME[:split]`, with
            native records or in one of the published layouts (`layouts.LAYOUTS`).
        limit: Stop after this many; what follows is not read.
        check: Called with every edit and its record's number; raises InputError for one that
            cannot be used.
        on_fault: Called with every record that is broken or refused by `check`, which is then left
            out; without it the first one raises.

    Returns:
        A generator. A case's id is the record's `id`, else its `case_id`, else its number.

    Raises:
        InputError: in one line that names file, record and field: at once when there is no
            such file or its suffix is unknown, else when the broken record is reached.
    """
    unread: set[str] = set()

    def convert(record: Record, number: int) -> Case:
        case = to_case(record, number)
        if new := set(unread_questions(record, find_layout(record))) - unread:
            unread.update(new)
            fields = ", ".join(sorted(new))
            warnings.warn(f"{source}: not read: {fields}", UnreadFieldWarning, stacklevel=2)
        if check is not None:
            check(case.edit, number)
        return case

    return _converted(source, limit, convert, on_fault)


def read_probes(source: str | Path, limit: int | None = None) -> Iterator[tuple[str, str]]:
    """Prompts on which an edited model is to agree with the original, with their record's id.

    A record gives the prompts of its locality probes if it has any, else its own prompt; it
    needs no target, and neither do its locality prompts need an answer.

    Args:
        source: As for `read_cases`; records that hold only a `prompt` will do.
        limit: Stop after this many records.

    Returns:
        A generator of pairs of id and prompt.

    Raises:
        InputError: as for `read_cases`.
    """
    records = _converted(source, limit, to_prompts, None)
    return ((name, prompt) for name, prompts in records for prompt in prompts)


def _converted(
    source: str | Path,
    limit: int | None,
    convert: Callable[[Record, int], T],
    on_fault: OnFault | None,
) -> Iterator[T]:
    if limit is not None and limit < 0:
        raise InputError(f"limit must not be negative, but is {limit}")
    records = islice(read_records(source, on_fault), limit)
    return _each(records, str(source), convert, on_fault)


def _each(
    records: Iterator[tuple[int, Record]],
    name: str,
    convert: Callable[[Record, int], T],
    on_fault: OnFault | None,
) -> Iterator[T]:
    for number, record in records:
        try:
            converted = convert(record, number)
        except InputError as error:
            if on_fault is None:
                raise located(error, name, number) from None
            on_fault(Fault(number, error, record))
        else:
            yield converted
