"""An edited model as a LoRA adapter of its base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.export.adapter import require_peft, write_adapter
from ultraedit.export.components import Components, of_dense, of_factors
from ultraedit.export.difference import Difference
from ultraedit.export.history import Factors, stacked
from ultraedit.export.modules import EditedModules
from ultraedit.export.source import at_one_version, origin, require_format
from ultraedit.export.staging import new_folder
from ultraedit.linalg.shift import Shift
from ultraedit.storage.manifest import Manifest, read_manifest

TOLERANCE = 0.05
# A history that misses more of the weights' difference than this is not the whole of it:
# rounding the masters to float32 after every turn accounts for less.
UNEXPLAINED = 1e-3


@dataclass(frozen=True)
class LoraModule:
    """One module of an adapter.

    Args:
        name: Its path in the model.
        inputs: d.
        outputs: e.
        error: Frobenius norm of what the adapter misses of master - original, relative to it.
    """

    name: str
    inputs: int
    outputs: int
    error: float


@dataclass(frozen=True)
class Lora:
    """An adapter as it was written.

    Args:
        path: Its folder.
        base: The model it is an adapter of; None where that is not known.
        rank: Of all modules.
        modules: How well each is given back.
    """

    path: Path
    base: str | None
    rank: int
    modules: tuple[LoraModule, ...]


def write(
    out: str | Path,
    folder: str | Path,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    shifts: Iterable[Mapping[str, Shift]] | None = None,
) -> Lora:
    """Write what the edits of a model added to its weights as a PEFT adapter.

    The adapter holds the float32 masters' change, so on a half-precision base it is nearer
    to them than the served weights are.

    Args:
        out: An edited model.
        folder: What must not be there yet, or be an empty folder.
        rank: Of every module; one above what the shifts have is lowered to that.
        tolerance: In place of `rank`, the error that no module may exceed: the smallest
            rank that keeps to it is taken. By default 0.05.
        shifts: All shifts by module name, in the order applied; None where the history is
            incomplete. They only save time: what they do not explain is found from the
            weights.

    Raises:
        InputError: `out` is no edited model or is damaged, its method does not leave as a
            LoRA, `folder` is taken, peft is missing, or rank and tolerance make no sense
            or cannot be met.
        UltraEditError: `folder` cannot be written; nothing is left of it.
    """
    _check_options(rank, tolerance)
    require_peft()
    out, folder = Path(out), Path(folder)
    if rank is None and tolerance is None:
        tolerance = TOLERANCE
    manifest = read_manifest(out)
    require_format(manifest, "lora")
    limits = {name: min(shape) for name, shape in EditedModules(out, manifest).shapes().items()}
    factors = stacked(shifts, limits)
    return at_one_version(out, lambda one: _write(out, one, folder, rank, tolerance, factors))


def _write(
    out: Path,
    manifest: Manifest,
    folder: Path,
    rank: int | None,
    tolerance: float | None,
    factors: Mapping[str, Factors],
) -> Lora:
    with new_folder(folder, outside=out) as staged:
        modules = EditedModules(out, manifest)
        modules.check()
        parts: dict[str, Components] = {}
        needed = 1
        for name in modules.names:
            difference = modules.difference(name)
            parts[name] = decompose(difference, factors.get(name), tolerance)
            if tolerance is not None:
                needed = max(needed, sufficient_rank(difference, parts[name], tolerance))
            else:
                parts[name] = parts[name].first(min(rank or 1, len(parts[name])))
        most = max(len(held) for held in parts.values())
        chosen = max(1, min(needed if rank is None else rank, most))
        errors = _errors(modules, parts, chosen)
        while tolerance is not None and max(errors.values()) > tolerance:
            if chosen >= most:
                raise InputError(
                    f"no rank keeps to a tolerance of {tolerance:g}: at the full rank, {most},"
                    f" the error is {max(errors.values()):.2g}"
                )
            chosen += 1
            errors = _errors(modules, parts, chosen)
        parts = {name: held.first(chosen) for name, held in parts.items()}
        base = origin(out, manifest)
        write_adapter(staged, parts, base, fan_in_fan_out=modules.any_conv1d())
    return Lora(
        folder,
        base.name,
        chosen,
        tuple(
            LoraModule(name, held.inputs.shape[1], held.outputs.shape[1], errors[name])
            for name, held in parts.items()
        ),
    )


def decompose(
    difference: Difference, factors: Factors | None, tolerance: float | None
) -> Components:
    """The parts of a difference: from the shifts' factors where these are all there is to it."""
    if factors is not None:
        parts = of_factors(*factors)
        if difference.error(parts) <= min(UNEXPLAINED, tolerance or UNEXPLAINED):
            return parts
    return of_dense(difference.dense())


def sufficient_rank(difference: Difference, parts: Components, tolerance: float) -> int:
    """How many parts keep to a tolerance; all of them where none does."""
    enough = (difference.errors(parts) <= tolerance).nonzero()
    return int(enough[0]) if len(enough) else len(parts)


def _errors(modules: EditedModules, parts: Mapping[str, Components], rank: int) -> dict[str, float]:
    return {
        name: modules.difference(name).error(held.first(min(rank, len(held))))
        for name, held in parts.items()
    }


def _check_options(rank: int | None, tolerance: float | None) -> None:
    if rank is not None and tolerance is not None:
        raise InputError("rank and tolerance exclude each other: give one of them")
    if rank is not None and rank < 1:
        raise InputError(f"rank must be at least 1, not {rank}")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance must be a positive number, not {tolerance}")
