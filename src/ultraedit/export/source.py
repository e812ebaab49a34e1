"""The edited model that is exported: one version of it, and what it was edited from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ultraedit.errors import InputError, UltraEditError
from ultraedit.methods.registry import method_class
from ultraedit.storage.filerecord import check_size
from ultraedit.storage.folder import overtaken
from ultraedit.storage.layout import Layout, is_edited_model
from ultraedit.storage.manifest import Manifest, read_manifest

Result = TypeVar("Result")

HUB_CACHE = re.compile(r"models--(?P<name>.+)/snapshots/(?P<revision>[^/]+)/?")


@dataclass(frozen=True)
class Origin:
    """What a model was edited from, as others would load it.

    Args:
        name: A hub id or a folder; None where nothing is known.
        revision: The hub's commit.
    """

    name: str | None
    revision: str | None = None


def require_format(manifest: Manifest, form: str) -> None:
    """Check that the method that edited the model can leave in this form.

    Raises:
        InputError: it cannot; says what it can.
    """
    info = method_class(manifest.settings["method"]).info
    if form not in info.exports:
        can = f"only as {', '.join(info.exports)}" if info.exports else "in no form"
        raise InputError(f"what method {info.name} edited cannot leave as {form}, {can}")


def at_one_version(out: Path, action: Callable[[Manifest], Result]) -> Result:
    """Do something with the version that counts, again if a writer has overtaken it.

    Args:
        out: An edited model.
        action: Reads its files; leaves nothing behind when it raises.

    Raises:
        InputError: `out` is no edited model, or a file of it cannot be read.
    """
    while True:
        manifest = read_manifest(out)
        staged = Layout(out).staged(manifest.edited).is_file()
        try:
            return action(manifest)
        except (UltraEditError, OSError) as error:
            # Whatever went wrong, a later version may have deleted what this one needed.
            if overtaken(out, manifest, staged):
                continue
            if isinstance(error, UltraEditError):
                raise
            raise InputError(f"cannot read {out}: {error}") from error


def check_served(out: Path, manifest: Manifest) -> None:
    """Check that the files with the served weights are whole.

    Raises:
        InputError: one is missing, truncated or, of the edited ones, altered.
    """
    for name, size in manifest.base.items():
        check_size(out / name, size)
    manifest.check_edited(out)


def origin(out: Path, manifest: Manifest) -> Origin:
    """Find the unedited model: edits of an edited model have the same one."""
    seen = {out.resolve()}
    source = manifest.source
    while source is not None and is_edited_model(source):
        if Path(source).resolve() in seen:
            return Origin(None)
        seen.add(Path(source).resolve())
        source = read_manifest(Path(source)).source
    cached = HUB_CACHE.search(source or "")
    if cached:
        return Origin(cached["name"].replace("--", "/"), cached["revision"])
    return Origin(source or manifest.settings.get("base") or None)
