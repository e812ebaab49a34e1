"""Adding shifts to weights: fp32 masters, and the served weight as their rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraedit.linalg.full_precision import full_precision
from ultraedit.linalg.shift import LowRank, Shift


@full_precision()
def add_shift(master: Tensor, shift: Shift, transposed: bool) -> Tensor:
    """Add the shift to `master` in place: the same operations wherever a shift is applied.

    Args:
        master: float32, (e, d) as `nn.Linear` holds it or (d, e) as `Conv1D` does.
        shift: Of a map from d to e.
        transposed: Whether `master` is (e, d).

    Returns:
        `master`.

    Raises:
        ValueError: the shapes do not fit.
    """
    expected = (master.shape[1], master.shape[0]) if transposed else tuple(master.shape)
    if shift.shape != expected:
        raise ValueError(f"a shift of shape {shift.shape} does not fit a map of {expected}")
    if isinstance(shift, LowRank):
        # Another layout in memory is another order of summation: a shift read from a file must
        # add up to the same bits.
        left = shift.left.to(master.device).contiguous()
        right = shift.right.to(master.device).contiguous()
        # In place: at 7B shapes a new matrix costs as much in page faults as the product.
        return master.addmm_(right.T, left) if transposed else master.addmm_(left.T, right)
    delta = shift.delta.to(master.device)
    return master.add_(delta.T if transposed else delta)


def shifted(master: Tensor, shift: Shift, transposed: bool) -> Tensor:
    """`add_shift` to a copy."""
    return add_shift(master.clone(), shift, transposed)


@dataclass
class MasterWeight:
    """One served parameter and the float32 weight it is the rounding of.

    For a float32 model the parameter is its own master. Otherwise shifts are added in
    float32: at |W| about 0.02 a step of 1e-5 is less than bfloat16 can add. A model may also
    compute in a wider dtype than it is stored in: it serves what will be stored.

    Attributes:
        parameter: The model's parameter; its storage never changes, only its values.
        transposed: Whether it is (e, d), as in `nn.Linear`.
        master: float32, of the parameter's shape, on its device.
        original: The unedited parameter, on the CPU, in the dtype that it is stored in.
    """

    parameter: torch.nn.Parameter
    transposed: bool
    master: Tensor
    original: Tensor

    @staticmethod
    def of(
        parameter: torch.nn.Parameter, transposed: bool, stored: torch.dtype | None = None
    ) -> MasterWeight:
        """Of the weight as it is now; `stored` is the parameter's dtype by default."""
        data = parameter.detach()
        stored = stored or data.dtype
        own = stored == data.dtype == torch.float32
        master = data if own else data.to(torch.float32, copy=True)
        return MasterWeight(parameter, transposed, master, data.to("cpu", stored, copy=True))

    @property
    def stored(self) -> torch.dtype:
        """The dtype that the weight is stored in."""
        return self.original.dtype

    @torch.no_grad()
    def add(self, shift: Shift) -> None:
        """Add to the master, and round it into the served weight."""
        add_shift(self.master, shift, self.transposed)
        self._serve_master()

    @torch.no_grad()
    def set(self, master: Tensor) -> None:
        """Make the values of `master` the float32 weight and their rounding the served one."""
        self.master.copy_(master)
        self._serve_master()

    def copy(self, into: Tensor | None = None) -> Tensor:
        """The master's values now, safe from later edits."""
        return self.master.clone() if into is None else into.copy_(self.master)

    def is_finite(self) -> bool:
        """Whether the served weight is; a float16 weight overflows before its master."""
        # Ten times faster than a mask of the weight's size; a nan is its own extreme.
        return all(bool(torch.isfinite(e)) for e in torch.aminmax(self.parameter.detach()))

    def served(self) -> Tensor:
        """The served weight, in the dtype that it is stored in."""
        return self.parameter.detach().to(self.stored)

    @torch.no_grad()
    def serve(self, weight: Tensor) -> None:
        """Put other values into the served parameter; the master stays."""
        self.parameter.copy_(weight)

    def _serve_master(self) -> None:
        if self.stored != torch.float32:
            self.parameter.copy_(self.master.to(self.stored))
