"""A set's edits as a file that somebody takes along."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ultraedit.export import lora
from ultraedit.history.contributions import contributions
from ultraedit.storage import EditRecord


def facts(records: Iterable[EditRecord]) -> str:
    """Edits as JSON lines, as `ultraedit edit` reads them."""
    lines = []
    for one in records:
        target = one.target if isinstance(one.target, str) else list(one.target)
        line = {"id": one.id, "prompt": one.prompt, "target": target, "subject": one.subject}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def adapter(out: Path, form: str) -> Path:
    """An adapter in a temporary folder of its own; `discard` deletes it.

    Args:
        out: An edited model.
        form: `lora` for PEFT's, as a zip file; `gguf-lora` for llama.cpp's.

    Raises:
        InputError: the model cannot leave in this form.
    """
    home = Path(tempfile.mkdtemp(prefix="ultraedit-export-"))
    try:
        if form == "gguf-lora":
            path = home / "adapter.gguf"
            lora.write(out, path, shifts=contributions(out), form="gguf-lora")
            return path
        lora.write(out, home / "adapter", shifts=contributions(out))
        return Path(shutil.make_archive(str(home / "adapter"), "zip", home / "adapter"))
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


def discard(path: Path) -> None:
    """Delete what `adapter` wrote."""
    shutil.rmtree(path.parent, ignore_errors=True)
