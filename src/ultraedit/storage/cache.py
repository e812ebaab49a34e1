"""Measurements of unedited models that are worth keeping from one run to the next."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import named_failures, replace, stage
from ultraedit.storage.shards import read_tensors, write_tensors

VARIABLE = "ULTRAEDIT_CACHE"

log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where measurements are kept: what ULTRAEDIT_CACHE says, nowhere if it is empty.

    By default `ultraedit` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache).
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named).expanduser() if named else None
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "ultraedit"


def keep(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors under a name, whole or not at all; where that fails, say so and go on."""
    folder = cache_folder()
    if folder is None:
        return
    path = folder / name
    try:
        with named_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes may measure the same model.
            own = path.with_name(f"{os.getpid()}-{path.name}")
            temporary, _ = stage(own, lambda sink: write_tensors(tensors, sink))
            replace(temporary, path)
    except UltraEditError as error:
        log.warning("what was measured is not kept for the next run: %s", error)


def kept(name: str) -> dict[str, Tensor]:
    """The tensors under a name; none where there are none that can be read."""
    folder = cache_folder()
    if folder is None or not (folder / name).is_file():
        return {}
    try:
        return read_tensors(folder / name)
    except (UltraEditError, OSError) as error:
        log.warning("what was measured before is measured again: %s", error)
        return {}


def drop(name: str) -> None:
    """Delete what is kept under a name, if anything is."""
    folder = cache_folder()
    if folder is not None:
        with suppress(OSError):
            (folder / name).unlink()
