"""What can be wrong with a file or a record, as one clear line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ultraedit.errors import InputError

_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),  # before numbers, because Python counts it as one
    ((int, float), "a number"),
    (str, "text"),
    ((list, tuple), "a list"),
    (dict, "an object"),
    (type(None), "null"),
)


class RecordError(InputError):
    """Something wrong with one record, raised where neither its number nor its file is known.

    Args:
        message: What is wrong.
        field: Where in the record, if at one field.
        text: The record as it stands in its file, where it could not be parsed.
    """

    def __init__(self, message: str, field: str = "", text: str | None = None) -> None:
        super().__init__(message)
        self.field, self.text = field, text


@dataclass(frozen=True)
class Fault:
    """A record that cannot be used.

    Attributes:
        number: Of the record in its file, from 1.
        error: Why.
        record: Its fields; its text where that could not be parsed, or None.
    """

    number: int
    error: InputError
    record: Mapping[str, Any] | str | None

    @property
    def kind(self) -> str:
        """The error without what differs from record to record: quoted text and numbers."""
        where = getattr(self.error, "field", "")
        field = f"field '{where}': " if where else ""
        general = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "...", str(self.error))
        return one_line(field + re.sub(r"^edit [^:]*: ", "", general), 120)


def located(error: InputError, source: str, number: int) -> InputError:
    """The same error on one line that names the file and, for a record's, number and field."""
    place = source
    if isinstance(error, RecordError):
        place += f": record {number}"
        if error.field:
            place += f", field '{error.field}'"
    return InputError(one_line(f"{place}: {error}"))


def describe(value: object) -> str:
    """A value's type in the words of a file's author: "text", "a list", "a number"."""
    return next((name for types, name in _NAMES if isinstance(value, types)), type(value).__name__)


def one_line(text: object, width: int = 600) -> str:
    """`text` without line breaks, cut to `width` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= width else line[: width - 3] + "..."


def cause(error: BaseException) -> str:
    """Another library's error as a short remark; its first line says what, the rest how."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return one_line(first, 200) or type(error).__name__
