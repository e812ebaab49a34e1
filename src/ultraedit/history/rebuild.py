"""The state after any entry, bit for bit: a snapshot, then the same shifts through `apply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.linalg.apply import shifted
from ultraedit.linalg.shift import Shift
from ultraedit.linalg.threads import threads
from ultraedit.methods.registry import method_class
from ultraedit.storage import (
    Entry,
    Head,
    Journal,
    Layout,
    Snapshot,
    open_journal,
    parse_manifest,
    read,
    read_factors,
    read_snapshot,
    read_tensors,
    rebuildable,
)
from ultraedit.storage.constants import REFERENCE, Constants, read_constants, separate, together


def current(out: Path) -> Snapshot:
    """The version that counts, with its state: as it was written, or rebuilt.

    Raises:
        InputError: `out` is no edited model, or damaged.
    """
    snapshot = read(out)
    if snapshot.state is not None:
        return snapshot
    with open_journal(out) as journal:
        number = journal.head().number
    state, constants = rebuild_state(out, number)
    return replace(snapshot, state=state, constants=constants)


def rebuild(out: Path, number: int) -> Snapshot:
    """The weights, statistics and settings that `out` had after an entry.

    Subtracting later shifts would not be exact in floating point; adding the same ones to
    the same weights, on the same kind of device with as many threads, is.

    Raises:
        InputError: there is no such entry, or what it is rebuilt from is not kept, or was
            altered.
    """
    found = _follow(out, number, weights=True)
    last = found.entry
    return Snapshot(
        served=served(found.masters, found.originals),
        masters=found.masters,
        originals=found.originals,
        state=found.state,
        settings={
            **found.settings, "turns": last.turns, "edits": last.edits, "run": last.run
        },
        version=last.turns,
        constants=found.constants,
    )  # fmt: skip


def rebuild_state(out: Path, number: int) -> tuple[dict[str, Tensor], Constants]:
    """The method's state alone, less its constants, and these; raises as `rebuild` does."""
    found = _follow(out, number, weights=False)
    return found.state, found.constants


@dataclass(frozen=True, eq=False)
class _Followed:
    """What `out` had after an entry; no weights where they were not asked for."""

    entry: Entry
    settings: Mapping[str, Any]
    originals: dict[str, Tensor]
    masters: dict[str, Tensor]
    state: dict[str, Tensor]
    constants: Constants


def _follow(out: Path, number: int, weights: bool) -> _Followed:
    """Replay the entries from the last snapshot on; every file is read once."""
    layout = Layout(out)
    with open_journal(out) as journal:
        head = journal.head()
        check_rebuildable(journal, head, number)
        manifest = parse_manifest(head.manifest, layout.journal)
        start = max(s for s in head.snapshots if s <= number)
        last = journal.entry(start)
        if last.snapshot is None:
            raise InputError(f"{layout.journal} names no snapshot for entry {start}")
        masters, state = read_snapshot(layout.history, last.snapshot)
        originals: dict[str, Tensor] = {}
        if weights:
            originals = read_tensors(manifest.originals.check(layout.internal))
            masters = masters or {name: weight.float() for name, weight in originals.items()}
        settings = manifest.settings
        method = method_class(settings["method"]).with_settings(settings["method_settings"])
        constants = read_constants(layout.internal, manifest.constants, state)
        method.load_state_dict(together(state, constants))
        with threads(settings["threads"]):
            for last in journal.entries(start + 1, number):
                assert last.factors is not None
                passes, record = read_factors(layout.history, last.factors)
                for shifts in passes if weights else ():
                    masters = apply_shifts(masters, shifts, head, last.device)
                if last.kind == "turn" or record:
                    there = _place(last.device)
                    if REFERENCE in record:
                        constants = read_constants(layout.internal, manifest.constants, record)
                        record = together(record, constants)
                    method.replay(
                        {name: tensor.to(there) for name, tensor in record.items()},
                        [{name: one.to(there) for name, one in some.items()} for some in passes],
                    )
    state, constants = separate(method.state_dict(), method.is_constant, constants)
    return _Followed(last, settings, originals, masters if weights else {}, state, constants)


def apply_shifts(
    masters: Mapping[str, Tensor], shifts: Mapping[str, Shift], head: Head, device: str
) -> dict[str, Tensor]:
    """Masters after the shifts of one pass.

    Args:
        masters: By parameter name, float32 on the CPU.
        shifts: By module name.
        head: Knows the modules' parameters.
        device: The kind of device to add on, where there is one.
    """
    place = _place(device)
    result = dict(masters)
    for module, shift in shifts.items():
        weight = head.about["weights"][module]
        parameter = weight["parameter"]
        master = result[parameter].to(place)
        result[parameter] = shifted(master, shift, weight["transposed"]).cpu()
    return result


def _place(device: str) -> torch.device:
    """A device of that kind, where there is one."""
    return torch.device(device if device == "cpu" or torch.cuda.is_available() else "cpu")


def served(masters: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as served: the masters' rounding to the dtype of the originals."""
    return {name: masters[name].to(original.dtype) for name, original in originals.items()}


def check_rebuildable(journal: Journal, head: Head, number: int) -> Entry:
    """The entry, if the state after it can be rebuilt.

    Raises:
        InputError: it cannot; says which can.
    """
    if not 0 <= number <= head.number:
        raise InputError(f"there is no turn {number}: the history goes from 0 to {head.number}")
    kept = rebuildable(head, journal.outline())
    if number not in kept:
        raise InputError(
            f"the state after turn {number} cannot be rebuilt: its shifts are not kept;"
            f" these can: {spans(sorted(kept))}"
        )
    return journal.entry(number)


def spans(numbers: list[int]) -> str:
    """Numbers as ranges: `0, 5-9`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
