"""Whether everything that an edited model consists of is as it was written."""

from __future__ import annotations

from pathlib import Path

from ultraedit.storage import Layout, open_journal, read, read_manifest
from ultraedit.storage.fingerprint import check_base


def verify(out: Path) -> int:
    """Read the whole journal, every file it vouches for and the base, and compare checksums.

    Returns:
        How many files of the history and of constants were read.

    Raises:
        InputError: something is missing, truncated or altered; it is named.
    """
    layout = Layout(out)
    count = 0
    with open_journal(out) as journal:
        head = journal.head()
        for entry in journal.entries():
            if entry.factors is not None and entry.number > head.factors_after:
                entry.factors.check(layout.history)
                count += 1
            if entry.snapshot is not None and entry.number in head.snapshots:
                entry.snapshot.check(layout.history)
                count += 1
    read(out)
    manifest = read_manifest(out)
    for record in manifest.constants:
        record.check(layout.internal)
        count += 1
    check_base(out, manifest)
    return count
