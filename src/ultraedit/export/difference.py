"""What edits have changed about one weight, and how well rank-one parts give it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraedit.export.components import Components

BLOCK = 2**22  # elements, in float64: 32 MiB


@dataclass(frozen=True, eq=False)
class Difference:
    """Master less original of one linear map from d to e features.

    Args:
        master: float32, (e, d) as `nn.Linear` holds it or (d, e) as `Conv1D` does.
        original: Of the same shape, in the served dtype.
        transposed: Whether they are (e, d).
    """

    master: Tensor
    original: Tensor
    transposed: bool

    def dense(self) -> Tensor:
        """(d, e) float64: the whole of it."""
        whole = self.master.double() - self.original.double()
        return whole.T if self.transposed else whole

    def error(self, components: Components) -> float:
        """Frobenius norm of what the components leave out, relative to the difference's own.

        Nothing left out of nothing is 0; anything added to nothing is infinite.
        """
        rows, columns = self._factors(components)
        whole = missed = 0.0
        for place, block in self._blocks():
            left = block - rows[:, place].T @ columns
            whole += float(block.square().sum())
            missed += float(left.square().sum())
        if whole == 0:
            return 0.0 if missed == 0 else float("inf")
        return float((missed / whole) ** 0.5)

    def errors(self, components: Components) -> Tensor:
        """(k + 1,) float64: `error` of the first 0, 1, ... k components, in one pass.

        |D - P|^2 is |D|^2 - 2 <D, P> + |P|^2, whose parts add up component by component.
        They cancel, so an error below 1e-7 is not resolved.
        """
        rows, columns = self._factors(components)
        whole = torch.zeros((), dtype=torch.float64)
        shared = torch.zeros(len(rows), dtype=torch.float64)
        for place, block in self._blocks():
            whole += block.square().sum()
            shared += ((columns @ block.T) * rows[:, place]).sum(1)
        own = ((rows @ rows.T) * (columns @ columns.T)).cumsum(0).cumsum(1).diagonal()
        missed = whole - 2 * shared.cumsum(0) + own
        missed = torch.cat([whole[None], missed]).clamp(min=0)
        if whole == 0:
            return torch.where(missed == 0, 0.0, float("inf")).double()
        return (missed / whole).sqrt()

    def _factors(self, components: Components) -> tuple[Tensor, Tensor]:
        """In the weight's own orientation: its rows' and its columns' factors."""
        inputs, outputs = components.inputs.double(), components.outputs.double()
        return (outputs, inputs) if self.transposed else (inputs, outputs)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of the difference at a time, in float64."""
        count = max(1, BLOCK // max(self.master.shape[1], 1))
        for start in range(0, self.master.shape[0], count):
            place = slice(start, start + count)
            yield place, self.master[place].double() - self.original[place].double()
