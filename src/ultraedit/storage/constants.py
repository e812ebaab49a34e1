"""The part of a method's state that never changes: a file of its own, written once per folder.

The rest of the state, wherever it is written, refers to the file by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.storage.bits import digest_of
from ultraedit.storage.filerecord import FileRecord
from ultraedit.storage.shards import read_tensors

# The key under which a state holds the name of its constants' file, as uint8. No method has it.
REFERENCE = "__constants__"


@dataclass(frozen=True, eq=False)
class Constants:
    """Tensors by key; never written into."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """Of their file, from their content. It takes a pass over all bytes, once."""
        return f"constants-{digest_of(self.tensors)[:16]}.safetensors"


def separate(
    state: Mapping[str, Tensor], is_constant: Callable[[str], bool], known: Constants
) -> tuple[dict[str, Tensor], Constants]:
    """A state without its constants, and these.

    Args:
        state: Of a method.
        is_constant: See `Method.is_constant`.
        known: Returned if the constants are these very tensors, so that their name is not
            computed again.
    """
    held = {key: tensor for key, tensor in state.items() if is_constant(key)}
    if not held:
        return dict(state), Constants()
    same = held.keys() == known.tensors.keys()
    same = same and all(tensor is known.tensors[key] for key, tensor in held.items())
    constants = known if same else Constants(held)
    rest = {key: tensor for key, tensor in state.items() if key not in held}
    name = torch.frombuffer(bytearray(constants.name.encode()), dtype=torch.uint8)
    return rest | {REFERENCE: name}, constants


def together(state: Mapping[str, Tensor], constants: Constants) -> dict[str, Tensor]:
    """The state that `separate` was given."""
    rest = {key: tensor for key, tensor in state.items() if key != REFERENCE}
    return rest | dict(constants.tensors)


def read_constants(
    folder: Path, records: Sequence[FileRecord], state: Mapping[str, Tensor]
) -> Constants:
    """The constants that a state refers to; none where it refers to none.

    Raises:
        InputError: the file is not recorded, missing, truncated or altered.
    """
    if REFERENCE not in state:
        return Constants()
    name = bytes(state[REFERENCE].tolist()).decode(errors="replace")
    for record in records:
        if record.name == name:
            return Constants(read_tensors(record.check(folder)))
    raise InputError(f"{folder / name} is missing")
