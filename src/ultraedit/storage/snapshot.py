"""What one version of an edited model consists of, beside the base it was edited from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ultraedit.storage.bits import same_bits
from ultraedit.storage.constants import Constants


# Compared by identity: a field-wise == would ask tensors for one truth value.
@dataclass(frozen=True, eq=False)
class Snapshot:
    """One version of the edited weights and of everything needed to go on editing.

    Args:
        served: Parameter name in the model -> the weight as served, in the model's dtype.
        masters: The same keys -> the float32 weight that `served` is the rounding of.
        originals: The same keys -> the unedited weight in the served dtype.
        state: The method's tensors, under keys of its own, less its constants; None if it is not
            stored as such, but follows from the history.
        settings: Whatever JSON can hold: method, lr, modules and so on.
        version: Turns applied so far.
        constants: What `state` lacks.

    Raises:
        ValueError: the three mappings of weights do not fit together.
    """

    served: Mapping[str, Tensor]
    masters: Mapping[str, Tensor]
    originals: Mapping[str, Tensor]
    state: Mapping[str, Tensor] | None
    settings: Mapping[str, Any]
    version: int
    constants: Constants = field(default_factory=Constants)

    def __post_init__(self) -> None:
        if not (self.served.keys() == self.masters.keys() == self.originals.keys()):
            raise ValueError("served, masters and originals must have the same keys")
        for name, weight in self.served.items():
            master, original = self.masters[name], self.originals[name]
            if master.dtype != torch.float32 or master.shape != weight.shape:
                raise ValueError(f"the master of {name} must be float32 and of its shape")
            if original.dtype != weight.dtype or original.shape != weight.shape:
                raise ValueError(f"the original of {name} must have its dtype and shape")
        if self.version < 0:
            raise ValueError("version counts turns and cannot be negative")

    def separate_masters(self) -> dict[str, Tensor]:
        """The masters that are not, bit for bit, the served weights themselves."""
        return {
            name: master
            for name, master in self.masters.items()
            if not same_bits(master, self.served[name])
        }
