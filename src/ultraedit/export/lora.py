"""An edited model as a LoRA adapter of its base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.export import gguf
from ultraedit.export.adapter import require_peft, write_adapter
from ultraedit.export.components import Components, of_dense, of_factors
from ultraedit.export.difference import Difference
from ultraedit.export.gguf_file import require_gguf
from ultraedit.export.history import Factors, stacked
from ultraedit.export.modules import EditedModules
from ultraedit.export.source import at_one_version, origin, require_format
from ultraedit.export.staging import new_file, new_folder
from ultraedit.linalg.shift import Shift
from ultraedit.models.gguf import GgufOrigin
from ultraedit.storage.manifest import Manifest, read_manifest

# Whether the edits hold with these weights: module and (e, d), one at a time.
Keeps = Callable[[Iterable[tuple[str, Tensor]]], bool]
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
    keeps: Keeps | None = None,
    shifts: Iterable[Mapping[str, Shift]] | None = None,
    form: Literal["lora", "gguf-lora"] = "lora",
) -> Lora:
    """Write what the edits of a model added to its weights as an adapter of PEFT or llama.cpp.

    The adapter holds the float32 masters' change, so on a half-precision base it is nearer
    to them than the served weights are.

    Args:
        out: An edited model.
        folder: What must not be there yet, or be an empty folder; for llama.cpp, a new file.
        rank: Of every module; one above what the shifts have is lowered to that.
        tolerance: In place of `rank`, the error that no module may exceed: the smallest
            rank that keeps to it is taken. By default 0.05.
        keeps: In place of both: whether the edits hold with these weights, (e, d) by module. The
            smallest rank is taken that it accepts.
        shifts: All shifts by module name, in the order applied; None where the history is
            incomplete. They only save time: what they do not explain is found from the
            weights.
        form: Of which program.

    Raises:
        InputError: `out` is no edited model or is damaged, its method does not leave as a
            LoRA, `folder` is taken, peft or gguf is missing, llama.cpp has no name for the
            modules, or rank, tolerance and `keeps` make no sense or cannot be met.
        UltraEditError: `folder` cannot be written; nothing is left of it.
    """
    _check_options(rank, tolerance, keeps)
    (require_peft if form == "lora" else require_gguf)()
    out, folder = Path(out), Path(folder)
    if rank is None and tolerance is None and keeps is None:
        tolerance = TOLERANCE
    manifest = read_manifest(out)
    require_format(manifest, "lora")
    limits = {name: min(shape) for name, shape in EditedModules(out, manifest).shapes().items()}
    factors = stacked(shifts, limits)
    choice = Choice(rank, tolerance, keeps)
    return at_one_version(out, lambda one: _write(out, one, folder, choice, factors, form))


@dataclass(frozen=True)
class Choice:
    """How the rank is chosen; see `write`."""

    rank: int | None
    tolerance: float | None
    keeps: Keeps | None


def _write(
    out: Path,
    manifest: Manifest,
    folder: Path,
    choice: Choice,
    factors: Mapping[str, Factors],
    form: str,
) -> Lora:
    base = origin(out, manifest)
    modules = EditedModules(out, manifest)
    modules.check()
    if form == "lora":
        with new_folder(folder, outside=out) as staged:
            parts, errors = _parts(modules, choice, factors)
            write_adapter(staged, parts, base, fan_in_fan_out=modules.any_conv1d())
    else:
        architecture = gguf.architecture_of(out)
        names = gguf.tensor_names(modules, architecture)
        with new_file(folder, outside=out) as staged:
            parts, errors = _parts(modules, choice, factors)
            gguf.write_adapter(staged, parts, names, architecture)
    file = GgufOrigin.of(out)
    return Lora(
        folder,
        file.path if file and form == "gguf-lora" else base.name,
        max(len(held) for held in parts.values()),
        tuple(
            LoraModule(name, held.inputs.shape[1], held.outputs.shape[1], errors[name])
            for name, held in parts.items()
        ),
    )


def _parts(
    modules: EditedModules, choice: Choice, factors: Mapping[str, Factors]
) -> tuple[dict[str, Components], dict[str, float]]:
    """As many parts of every module as the choice says, and what they miss."""
    rank, tolerance = choice.rank, choice.tolerance
    parts: dict[str, Components] = {}
    needed = 1
    for name in modules.names:
        difference = modules.difference(name)
        parts[name] = decompose(difference, factors.get(name), tolerance)
        if tolerance is not None:
            needed = max(needed, sufficient_rank(difference, parts[name], tolerance))
        elif rank is not None:
            parts[name] = parts[name].first(min(rank, len(parts[name])))
    most = max(len(held) for held in parts.values())
    if choice.keeps is not None:
        needed = _kept(modules, parts, most, choice.keeps)
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
    return {name: held.first(chosen) for name, held in parts.items()}, errors


def _kept(modules: EditedModules, parts: Mapping[str, Components], most: int, keeps: Keeps) -> int:
    """The smallest rank that keeps the edits, by bisection: a larger one keeps no fewer."""

    def weights(rank: int) -> Iterator[tuple[str, Tensor]]:
        for name, held in parts.items():
            difference, some = modules.difference(name), held.first(min(rank, len(held)))
            original = difference.original.float()
            shift = some.outputs.T @ some.inputs
            yield name, (original if difference.transposed else original.T) + shift

    if not keeps(weights(most)):
        raise InputError(f"no rank keeps so many edits: the full one, {most}, does not")
    too_few, enough_rank = 0, most
    while enough_rank - too_few > 1:
        middle = (too_few + enough_rank) // 2
        if keeps(weights(middle)):
            enough_rank = middle
        else:
            too_few = middle
    return enough_rank


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


def _check_options(rank: int | None, tolerance: float | None, keeps: Keeps | None) -> None:
    if sum(one is not None for one in (rank, tolerance, keeps)) > 1:
        raise InputError("rank, tolerance and keep-edits exclude each other: give one of them")
    if rank is not None and rank < 1:
        raise InputError(f"rank must be at least 1, not {rank}")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance must be a positive number, not {tolerance}")
