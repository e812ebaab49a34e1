"""Everything ultraedit raises on purpose; `exit_code` is what the command line returns."""

from __future__ import annotations

# The exit code where an interrupt ended it: what shells return for that.
INTERRUPTED = 130


class UltraEditError(Exception):
    """A run that failed for a reason worth one clear line."""

    exit_code = 1


class InputError(UltraEditError):
    """The caller's input is wrong: a file, a record, an option, a model."""

    exit_code = 2


class UnsupportedModelError(InputError):
    """A model, or a module of it, that cannot be edited."""


class TurnRefusedError(UltraEditError):
    """A turn whose result was not finite; weights and state are as they were before it."""
