"""A digest of cases: it differs wherever the content of two files differs."""

from __future__ import annotations

import hashlib
import json

from ultraedit.records import Case


class CasesDigest:
    """Takes cases one at a time, in constant memory."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self.count = 0

    def add(self, case: Case) -> None:
        """Take one more: the edit, and every probe with its accepted answers."""
        edit = case.edit
        probes = [[probe.kind, probe.prompt, probe.answers] for probe in case.probes]
        content = [edit.prompt, edit.answers, edit.subject, edit.id, probes]
        self._whole.update(json.dumps(content).encode() + b"\n")
        self.count += 1

    @property
    def value(self) -> str:
        """64 hexadecimal digits."""
        return self._whole.hexdigest()
