"""An edited model as a plain checkpoint that owes nothing to this package."""

from __future__ import annotations

from pathlib import Path

from ultraedit.export.plain import Written, finish_shards
from ultraedit.export.source import at_one_version, check_served, require_format
from ultraedit.export.staging import new_folder
from ultraedit.storage.atomic import place
from ultraedit.storage.config_files import copy_config_files
from ultraedit.storage.fingerprint import check_base
from ultraedit.storage.layout import Layout
from ultraedit.storage.manifest import Manifest


def write(out: str | Path, folder: str | Path) -> Written:
    """Write an edited model's served weights as a plain transformers checkpoint.

    Weight files are linked, or copied where links are refused: memory stays constant.

    Args:
        out: An edited model.
        folder: What must not be there yet, or be an empty folder.

    Raises:
        InputError: `out` is no edited model or is damaged, its method does not leave as a
            checkpoint, or `folder` is taken.
        UltraEditError: `folder` cannot be written; nothing is left of it.
    """
    out, folder = Path(out), Path(folder)
    return at_one_version(out, lambda manifest: _write(out, manifest, folder))


def _write(out: Path, manifest: Manifest, folder: Path) -> Written:
    require_format(manifest, "checkpoint")
    with new_folder(folder, outside=out) as staged:
        check_served(out, manifest)
        check_base(out, manifest)
        files = [*(out / name for name in manifest.base), Layout(out).edited(manifest.edited)]
        shards = [staged / path.name for path in files]
        for path, shard in zip(files, shards, strict=True):
            place(path, shard)
        names, size = finish_shards(staged, shards)
        copy_config_files(out, staged, None)
    settings = manifest.settings
    return Written(folder, settings["method"], settings["turns"], settings["edits"], names, size)
