"""E[k k^T]: which directions of a module's input the unedited model has in use.

Measured once for a model and a source of text, and kept on disk under a digest of the model's
values, so that another run, or another method, finds it there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from ultraedit.encoding.tokenise import Encoded, beginning
from ultraedit.errors import InputError, TurnRefusedError
from ultraedit.forward.generate import context_length
from ultraedit.forward.positions import Spots, recorded
from ultraedit.linalg.full_precision import full_precision
from ultraedit.methods.base import Workbench
from ultraedit.methods.sample_text import drawn_part, of_file
from ultraedit.models.identity import model_digest
from ultraedit.storage.cache import drop, keep, kept

# A second moment of d features needs several times d tokens to be more than noise; a wide model
# has what takes minutes on its device.
TOKENS_PER_FEATURE, MOST_TOKENS = 32, 2**17
TEXT_TOKENS = 64
# Of the mean diagonal, added to all of it: features that no text uses leave it singular.
FLOOR, MOST_FLOOR = 1e-6, 1e-1
# Texts that are drawn side by side: their keys and values are held until they are whole.
TOGETHER = 64
# From one save of an unfinished measurement to the next.
SECONDS = 30.0


@dataclass(frozen=True)
class Source:
    """The text that keys are collected over.

    Attributes:
        text: A file; None for what the model draws itself.
        tokens: How many of it; `auto` is 32 for every feature of the widest input, at most 2^17.
    """

    text: str | None = None
    tokens: int | str = "auto"

    def size(self, widest: int) -> int:
        if self.tokens != "auto":
            return int(self.tokens)
        return min(TOKENS_PER_FEATURE * widest, MOST_TOKENS)


def covariances(workbench: Workbench, source: Source) -> dict[str, Tensor]:
    """Of every edited module's inputs, over all tokens of the text but each text's first.

    Args:
        workbench: Of the model; what is measured is the model before any edit.
        source: The text.

    Returns:
        (d, d) float32 by module, on the module's device.

    Raises:
        InputError: the text cannot be read, or the model draws none.
        TurnRefusedError: what was measured is not finite.
    """
    wanted = source.size(max(target.d for target in workbench.targets.values()))
    with workbench.unedited():
        pieces = _pieces(workbench, source, wanted)
        folder = f"covariance/{model_digest(workbench.model)}/{_digest(workbench, pieces, wanted)}"
        found = {name: _known(workbench, folder, name) for name in workbench.targets}
        missing = [name for name, matrix in found.items() if matrix is None]
        if missing:
            found |= _measured(workbench, missing, pieces, wanted, folder)
    return {
        name: matrix.to(workbench.targets[name].parameter.device)
        for name, matrix in found.items()
        if matrix is not None
    }


def factor(covariance: Tensor) -> Tensor:
    """(d, d) float64 lower Cholesky factor of C plus `FLOOR` of its mean diagonal.

    Of little text C is singular, and summed in float32 not even positive: then the floor is ten
    times as high, again and again up to `MOST_FLOOR`.

    Raises:
        ValueError: C holds what is no number.
    """
    share = FLOOR
    while share <= MOST_FLOOR:
        matrix = covariance.double()
        matrix.diagonal().add_(share * matrix.diagonal().mean())
        found, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return found
        share *= 10
    raise ValueError("the covariance of keys is not positive")


def _pieces(workbench: Workbench, source: Source, wanted: int) -> list[Encoded] | None:
    """The texts of a file; None where the model is to draw them."""
    if source.text is None:
        return None
    tokens = _tokens(workbench)
    return of_file(workbench, source.text, -(-wanted // tokens), tokens)


def _tokens(workbench: Workbench) -> int:
    """Of one text, at most."""
    limit = context_length(workbench.model)
    return TEXT_TOKENS if limit is None else min(TEXT_TOKENS, limit - 1)


def _texts(workbench: Workbench, pieces: list[Encoded] | None) -> Iterator[list[Encoded]]:
    """Some at a time; without an end where the model draws them."""
    if pieces is None:
        yield from (
            drawn_part(workbench, number, TOGETHER, _tokens(workbench)) for number in count()
        )
    else:
        yield from (pieces[first : first + TOGETHER] for first in range(0, len(pieces), TOGETHER))


def _digest(workbench: Workbench, pieces: list[Encoded] | None, wanted: int) -> str:
    """Of all that decides which tokens are read."""
    tokenizer = workbench.tokenizer
    own = None if pieces is None else [piece.ids for piece in pieces]
    content = [own, wanted, _tokens(workbench), beginning(tokenizer), tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _known(workbench: Workbench, folder: str, name: str) -> Tensor | None:
    matrix = kept(f"{folder}/{name}.safetensors").get("covariance")
    d = workbench.targets[name].d
    return matrix if matrix is not None and matrix.shape == (d, d) else None


def _measured(
    workbench: Workbench,
    names: Sequence[str],
    pieces: list[Encoded] | None,
    wanted: int,
    folder: str,
) -> dict[str, Tensor | None]:
    """Measured from where an interrupted run left off, and kept."""
    unfinished = f"{folder}/{_short(names)}.unfinished"
    sums, parts, tokens = _begun(workbench, names, unfinished)
    if pieces is not None:
        wanted = min(wanted, sum(len(piece.target) for piece in pieces))
    saved = time.monotonic()
    with workbench.progress("covariance of keys, tokens", wanted) as advance:
        advance(min(tokens, wanted))
        for number, texts in enumerate(_texts(workbench, pieces)):
            if number < parts:
                continue
            if tokens >= wanted:
                break
            read = _add(workbench, names, texts, sums)
            if not read:
                raise InputError("the model draws no text by itself; measure over text=FILE")
            advance(min(read, max(wanted - tokens, 0)))
            parts, tokens = parts + 1, tokens + read
            if time.monotonic() - saved > SECONDS:
                counts = {"parts": torch.tensor(parts), "tokens": torch.tensor(tokens)}
                keep(unfinished, {**{n: m.cpu() for n, m in sums.items()}, **counts})
                saved = time.monotonic()
    for name in names:
        sums[name] /= tokens
        if not torch.isfinite(sums[name]).all():
            raise TurnRefusedError(f"the covariance of keys at {name} is not finite")
        keep(f"{folder}/{name}.safetensors", {"covariance": sums[name].cpu()})
    drop(unfinished)
    return dict(sums)


def _begun(
    workbench: Workbench, names: Sequence[str], unfinished: str
) -> tuple[dict[str, Tensor], int, int]:
    """Sums so far, and over how many parts and tokens."""
    before = kept(unfinished)
    places = {name: workbench.targets[name].parameter.device for name in names}
    if before.keys() == {*names, "parts", "tokens"}:
        sums = {name: before[name].to(places[name]) for name in names}
        return sums, int(before["parts"]), int(before["tokens"])
    sums = {
        n: torch.zeros(workbench.targets[n].d, workbench.targets[n].d, device=places[n])
        for n in names
    }
    return sums, 0, 0


@torch.no_grad()
def _add(
    workbench: Workbench, names: Sequence[str], texts: Sequence[Encoded], sums: dict[str, Tensor]
) -> int:
    """Add k k^T of these texts' tokens to the sums; how many tokens there were."""
    tokens = 0
    for batch in workbench.batches(texts):
        # A text's first token sees nothing before it, and its key is like no other.
        mask = batch.attention_mask.bool() & (batch.position_ids > 0)
        modules = {name: workbench.targets[name].module for name in names}
        with recorded(modules, Spots.masked(mask)) as seen:
            workbench.logits(batch)
        for name, (keys, _) in seen.items():
            with full_precision():
                sums[name].addmm_(keys.T, keys)
        tokens += int(mask.sum())
    return tokens


def _short(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
