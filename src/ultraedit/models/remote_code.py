"""Code that comes with a model: which of it may be run.

transformers asks on the terminal if `trust_remote_code` is not given. Here nothing asks: code is
run where the caller says so, and from then on where the same code lies again, as in the folder
that the edited model was saved to. What is remembered is a digest of the code, in the cache folder
of this user, so that a folder from elsewhere cannot vouch for itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ultraedit.storage.cache import cache_folder

FILE = "trusted-code"
CONFIGS = ("config.json", "tokenizer_config.json")


def code_digest(folder: Path) -> str | None:
    """A digest of a model's own code, and of what names it; None for a model without any."""
    named = [_auto_map(folder / name) for name in CONFIGS]
    if not any(named):
        return None
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
    for path in sorted(folder.rglob("*.py")):
        # Length and name before content: no two sets of files give the same bytes.
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def trust(folder: Path) -> None:
    """Remember the code of a model as what may be run; nothing where there is no cache folder."""
    cache, digest = cache_folder(), code_digest(folder)
    if cache is None or digest is None or is_trusted(folder):
        return
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / FILE, "a", encoding="utf-8") as stream:
        stream.write(digest + "\n")


def is_trusted(folder: Path | None) -> bool:
    """Whether the code of a model was remembered, as it is now."""
    cache = cache_folder()
    if folder is None or cache is None or not (cache / FILE).is_file():
        return False
    digest = code_digest(folder)
    return digest is not None and digest in (cache / FILE).read_text(encoding="utf-8").split()


def _auto_map(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("auto_map")
    except (OSError, ValueError, AttributeError):
        return None
