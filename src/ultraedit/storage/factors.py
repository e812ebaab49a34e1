"""The files of the history: the shifts of a turn, and snapshots of masters and state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.linalg.shift import Dense, LowRank, Shift
from ultraedit.storage.atomic import write_file
from ultraedit.storage.filerecord import FileRecord
from ultraedit.storage.shards import read_tensors, write_tensors

STATE = "state/"
MASTER = "master/"


def write_factors(
    path: Path, shifts: Sequence[Mapping[str, Shift]], state: Mapping[str, Tensor] | None
) -> FileRecord:
    """Write the shifts of one entry.

    Args:
        path: The file to create.
        shifts: By module name, per pass.
        state: What the method recorded of the turn.
    """
    tensors: dict[str, Tensor] = {}
    for place, one in enumerate(shifts):
        for module, shift in one.items():
            for part, tensor in _parts(shift).items():
                tensors[f"{place}/{module}/{part}"] = tensor
    tensors |= {f"{STATE}{key}": tensor for key, tensor in (state or {}).items()}
    return write_record(path, tensors)


def read_factors(
    folder: Path, record: FileRecord
) -> tuple[list[dict[str, Shift]], dict[str, Tensor]]:
    """The shifts per pass by module name, in the order applied, and the method's record.

    Raises:
        InputError: the file is missing, truncated, altered, or holds something else.
    """
    path = record.check(folder)
    passes: list[dict[str, Shift]] = []
    state: dict[str, Tensor] = {}
    parts: dict[tuple[int, str], dict[str, Tensor]] = {}
    try:
        for key, tensor in read_tensors(path).items():
            if key.startswith(STATE):
                state[key.removeprefix(STATE)] = tensor
                continue
            place, rest = key.split("/", 1)
            module, part = rest.rsplit("/", 1)
            parts.setdefault((int(place), module), {})[part] = tensor
        for (number, module), held in parts.items():
            while len(passes) <= number:
                passes.append({})
            passes[number][module] = (
                Dense(held["delta"])
                if "delta" in held
                else LowRank(held["left"], held["right"], held["edits"])
            )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} holds something else than shifts") from error
    return passes, state


def write_snapshot(
    path: Path, masters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> FileRecord:
    """Write a state that others are rebuilt from; no masters stand for the original weights."""
    tensors = {f"{MASTER}{name}": master for name, master in masters.items()}
    return write_record(path, tensors | {f"{STATE}{key}": value for key, value in state.items()})


def read_snapshot(folder: Path, record: FileRecord) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masters by parameter name, and the method's state.

    Raises:
        InputError: the file is missing, truncated or altered.
    """
    tensors = read_tensors(record.check(folder))
    masters, state = (
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in (MASTER, STATE)
    )
    return masters, state


def write_record(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write tensors to a file in one step, and say what was written."""
    measured = write_file(path, lambda sink: write_tensors(tensors, sink))
    return FileRecord(path.name, measured.size, measured.digest.hexdigest())


def _parts(shift: Shift) -> dict[str, Tensor]:
    if isinstance(shift, Dense):
        return {"delta": shift.delta}
    return {"left": shift.left, "right": shift.right, "edits": shift.edit_index}
