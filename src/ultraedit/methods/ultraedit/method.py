"""The published algorithm: lifelong normalisation and one ridge regression per module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError
from ultraedit.forward.capture import Rows
from ultraedit.linalg.normalise import Moments
from ultraedit.linalg.shift import LowRank
from ultraedit.linalg.solve import ridge_rows, values
from ultraedit.methods.base import Method, MethodInfo, Shifts, Workbench
from ultraedit.methods.settings import check_positive
from ultraedit.methods.ultraedit.learning_rate import (
    CALIBRATION_EDITS,
    choose_lr,
    choose_step,
    witness_texts,
)
from ultraedit.models.memory import Cost
from ultraedit.models.target import Target
from ultraedit.records import Edit

Shape = tuple[int, int]

# Below this many rows a z-score says nothing: one row has no spread, two give opposite signs.
MIN_ROWS = 32
FILL_TEXTS, FILL_TOKENS = 8, 16


@dataclass(frozen=True)
class UltraEditConfig:
    """Settings of arXiv:2505.14679.

    Attributes:
        lr: eta, the scale of the values; `auto` finds it on the first turn.
        ridge: What is added to the diagonal of H H^T; 1 in the paper.
    """

    lr: float | str = "auto"
    ridge: float = 1.0

    def __post_init__(self) -> None:
        check_positive("lr", self.lr, auto=True)
        check_positive("ridge", self.ridge)


class UltraEdit(Method):
    """arXiv:2505.14679, section 3: constant memory, no training, no subjects."""

    info = MethodInfo(
        name="ultraedit",
        summary="closed-form shifts from normalised hidden states and gradients",
        reference="arXiv:2505.14679",
        exports=("checkpoint", "delta", "lora"),
    )
    Config = UltraEditConfig

    def __init__(self, config: UltraEditConfig | None = None) -> None:
        super().__init__(config)
        self.lr: float | None = None if self.config.lr == "auto" else float(self.config.lr)
        self.moments: dict[Shape, Moments] = {}

    def passes(
        self, workbench: Workbench, edits: Sequence[Edit], texts: Sequence[Encoded]
    ) -> Iterator[Shifts]:
        rows = workbench.capture(texts)
        moments = filled(updated(self.moments, workbench.targets, rows), workbench)
        if self.lr is None:
            lr, step = self._found(workbench, texts, rows, moments)
        else:
            lr = step = self.lr
        yield shifts(rows, moments, workbench.targets, step, self.config.ridge)
        self.moments, self.lr = moments, lr

    def _found(
        self,
        workbench: Workbench,
        texts: Sequence[Encoded],
        rows: Mapping[str, Rows],
        moments: Mapping[Shape, Moments],
    ) -> tuple[float, float]:
        """eta for all turns, and the step of this first one."""
        targets, ridge = workbench.targets, self.config.ridge

        def unit(some: Mapping[str, Rows]) -> dict[str, LowRank]:
            return shifts(some, filled(updated({}, targets, some), workbench), targets, 1.0, ridge)

        witnesses = witness_texts(workbench)
        lr = choose_lr(workbench, texts, rows, unit, witnesses)
        if len(texts) >= CALIBRATION_EDITS:
            return lr, lr
        own = shifts(rows, moments, targets, 1.0, ridge)
        return lr, choose_step(workbench, texts, own, lr, witnesses)

    def cost(self, shapes: Sequence[tuple[int, int]], edits: int) -> Cost:
        moments = sum(16 * (d + e) + 8 for d, e in set(shapes)) + 8
        return Cost(memory=moments, state=moments, record=moments)

    def state_dict(self) -> dict[str, Tensor]:
        state = {}
        for (d, e), moments in self.moments.items():
            state[f"moments.{d}x{e}.count"] = torch.tensor(moments.count)
            state[f"moments.{d}x{e}.mean"] = moments.mean
            state[f"moments.{d}x{e}.squares"] = moments.squares
        if self.lr is not None:
            state["lr"] = torch.tensor(self.lr, dtype=torch.float64)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        moments: dict[Shape, Moments] = {}
        try:
            for key in state:
                if key.endswith(".count"):
                    stem = key.removesuffix(".count")
                    d, e = stem.removeprefix("moments.").split("x")
                    moments[int(d), int(e)] = Moments(
                        int(state[key]), state[f"{stem}.mean"], state[f"{stem}.squares"]
                    )
        except (KeyError, ValueError) as error:
            raise InputError(f"this is no state of method ultraedit: {error}") from None
        self.moments = moments
        if "lr" in state:
            self.lr = float(state["lr"])
        else:
            self.lr = None if self.config.lr == "auto" else float(self.config.lr)


def shape_of(target: Target) -> Shape:
    """Modules of one weight shape share a normaliser."""
    return target.d, target.e


def updated(
    moments: Mapping[Shape, Moments], targets: Mapping[str, Target], rows: Mapping[str, Rows]
) -> dict[Shape, Moments]:
    """Moments after the rows of all modules, taken in the modules' order."""
    result = dict(moments)
    for name, target in targets.items():
        shape = shape_of(target)
        both = torch.cat([rows[name].inputs, rows[name].gradients.to(rows[name].inputs.device)], 1)
        before = result.get(shape) or Moments.empty(sum(shape), both.device)
        result[shape] = _on(before, both.device).update(both)
    return result


def filled(moments: Mapping[Shape, Moments], workbench: Workbench) -> dict[Shape, Moments]:
    """Bring every normaliser to MIN_ROWS with rows from text the model samples itself.

    Without it the first edit, one token long, has a normalised input of zero and so a
    shift of exactly zero, and two rows get exactly opposite gradients.
    """
    result = dict(moments)
    if all(held.count >= MIN_ROWS for held in result.values()):
        return result
    sampled = workbench.capture(workbench.sample(FILL_TEXTS, FILL_TOKENS))
    while any(m.count < MIN_ROWS for m in result.values()):
        for name, target in workbench.targets.items():
            missing = MIN_ROWS - result[shape_of(target)].count
            if missing > 0:
                rows = sampled[name]
                both = torch.cat([rows.inputs, rows.gradients.to(rows.inputs.device)], 1)
                before = _on(result[shape_of(target)], both.device)
                result[shape_of(target)] = before.update(both[:missing])
    return result


def shifts(
    rows: Mapping[str, Rows],
    moments: Mapping[Shape, Moments],
    targets: Mapping[str, Target],
    lr: float,
    ridge: float,
) -> dict[str, LowRank]:
    """Steps 2 to 4 of the algorithm for every module; linear in `lr`."""
    result = {}
    for name, target in targets.items():
        inputs = rows[name].inputs
        gradients = rows[name].gradients.to(inputs.device)
        normalised = _on(moments[shape_of(target)], inputs.device).normalise(
            torch.cat([inputs, gradients], 1)
        )
        v = values(normalised[:, : target.d], normalised[:, target.d :], lr)
        result[name] = LowRank(inputs, ridge_rows(inputs, v, ridge), rows[name].edit_index)
    return result


def _on(moments: Moments, device: torch.device) -> Moments:
    return Moments(moments.count, moments.mean.to(device), moments.squares.to(device))
