"""Checks that the settings of several methods share."""

from __future__ import annotations

import math

from ultraedit.errors import InputError


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_positive(name: str, value: object, auto: bool = False) -> None:
    """Refuse what is no finite positive number.

    Args:
        name: Of the setting.
        value: As the caller gave it.
        auto: Whether `auto` will do as well.

    Raises:
        InputError: naming the setting.
    """
    if auto and value == "auto":
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]
        known = "auto or a positive number" if auto else "a positive number"
        raise InputError(f"{name} must be {known}, not {value!r}")
