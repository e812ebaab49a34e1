"""Which anchors speak of what an edit names: those whose keys are alike, in a few numbers a token.

The anchors' keys themselves would take gigabytes at 7B's width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraedit.methods.anchored import derive
from ultraedit.methods.anchored.derive import FLOOR, SKETCH, WHITENED

# Of both projections.
SEEDS = (5, 6)
# Tokens that are compared at once: a turn of a thousand edits has some thousands of keys.
CHUNK = 4096


@dataclass(frozen=True)
class Likeness:
    """The anchors' keys of one module, whitened and of length one.

    Attributes:
        module: The edited module whose inputs they are.
        projection: (d, r) float32, from an input to what is compared.
        tokens: (n, r) float16 on the CPU, of all the anchors' tokens in their order.
    """

    module: str
    projection: Tensor
    tokens: Tensor

    @staticmethod
    def of_nothing() -> Likeness:
        return Likeness("", torch.empty(0, 0), torch.empty(0, 0, dtype=torch.float16))

    def on(self, device: torch.device) -> Likeness:
        return replace(self, projection=self.projection.to(device))

    def close(self, keys: Tensor) -> Tensor:
        """(n,) bool on the CPU: whether a token's key is like any of `keys`, (k, d)."""
        asked = _of_length_one(keys @ self.projection).cpu()
        found = torch.zeros(len(self.tokens), dtype=torch.bool)
        if len(asked):
            for first in range(0, len(found), CHUNK):
                part = self.tokens[first : first + CHUNK].float() @ asked.T
                found[first : first + CHUNK] = part.abs().amax(1) >= derive.SAME
        return found


def narrowing(width: int) -> Tensor:
    """(width, at most `WHITENED`), for `narrowed`."""
    return _drawn(width, WHITENED, SEEDS[0])


def narrowed(inputs: Tensor, by: Tensor) -> Tensor:
    """(n, d) inputs in the dimensions of `narrowing` and of length one, float16 on the CPU."""
    # Of length one first: in float16 a large input would be infinite.
    return _of_length_one(inputs @ by.to(inputs.device)).half().cpu()


def likeness(module: str, width: int, rows: Tensor) -> Likeness:
    """Of the (n, r) `narrowed` inputs of a module that is given `width` features.

    They are whitened by their own second moment: what all keys share says nothing. Only then
    are they made few: of 128 raw dimensions, common ones would be all that is left.
    """
    rows = rows.float()
    moment = (rows.T @ rows).double() / max(len(rows), 1)
    moment.diagonal().add_(FLOOR * moment.diagonal().mean() + torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    whitening = torch.linalg.cholesky((inverse + inverse.T) / 2).float()
    last = whitening @ _drawn(rows.shape[1], SKETCH, SEEDS[1])
    projection = (narrowing(width) @ last).contiguous()
    return Likeness(module, projection, _of_length_one(rows @ last).half())


def _drawn(width: int, most: int, seed: int) -> Tensor:
    """(width, at most `most`): drawn, and the same on every machine; the identity if it fits."""
    if width <= most:
        return torch.eye(width)
    return torch.randn(width, most, generator=torch.Generator().manual_seed(seed)) / most**0.5


def _of_length_one(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
