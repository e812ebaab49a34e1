"""Writing a version of which the journal says no more than that there is a change."""

from pathlib import Path

from ultraedit import storage
from ultraedit.storage import Change, Entry, Layout, Update, now, open_journal


def gap(snapshot, follows=None):
    """An update that keeps no history; by default of somebody who has not read the folder."""
    change = Change(Entry("gap", now(), "", snapshot.version, 0), None, None)
    return Update([change], "", {}, {}, keep=0, follows=follows)


def write(out, snapshot, *, update=None, **given):
    """`storage.write`, by default with a `gap` that follows what is in the folder."""
    follows = None
    if Layout(Path(out)).journal.exists():
        with open_journal(Path(out)) as journal:
            follows = journal.head_digest()
    storage.write(out, snapshot, update=update or gap(snapshot, follows), **given)
