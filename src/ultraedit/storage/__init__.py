"""OUT, the edited model on disk: base shards once, small files per turn, and their journal."""

from ultraedit.storage.commit import Update, checksums
from ultraedit.storage.entry import Change, EditRecord, Entry, now
from ultraedit.storage.factors import read_factors, read_snapshot
from ultraedit.storage.folder import read, read_settings, write
from ultraedit.storage.journal import Head, Journal, Outline, open_journal
from ultraedit.storage.layout import Layout, check_destination, is_edited_model
from ultraedit.storage.lock import lock
from ultraedit.storage.manifest import parse_manifest, read_manifest
from ultraedit.storage.retention import KEEP_ALL, parse_history, rebuildable
from ultraedit.storage.shards import read_tensors
from ultraedit.storage.snapshot import Snapshot
from ultraedit.storage.version import settle, settle_if_free

__all__ = [
    "KEEP_ALL",
    "Change",
    "EditRecord",
    "Entry",
    "Head",
    "Journal",
    "Layout",
    "Outline",
    "Snapshot",
    "Update",
    "check_destination",
    "checksums",
    "is_edited_model",
    "lock",
    "now",
    "open_journal",
    "parse_history",
    "parse_manifest",
    "read",
    "read_factors",
    "read_manifest",
    "read_settings",
    "read_snapshot",
    "read_tensors",
    "rebuildable",
    "settle",
    "settle_if_free",
    "write",
]
