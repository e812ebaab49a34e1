"""What an edit must not move: the keys of other names, and of ordinary text.

Edits are written where a name ends, so the inputs that other names give there are what has to stay
in place. They are collected once for a model and kept under a digest of its values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraedit.demo.facts import subjects
from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError
from ultraedit.linalg.full_precision import full_precision
from ultraedit.methods.anchored import defaults
from ultraedit.methods.base import Workbench
from ultraedit.methods.sample_text import drawn, of_file
from ultraedit.models.identity import model_digest
from ultraedit.storage.cache import keep, kept

# What a name stands behind: a key depends a little on the words before it.
TEMPLATES = (
    "{}", "The {}", "Where is {}", "The name of {}", "In the case of {}",
    "What is the origin of {}",
)  # fmt: skip
# Texts of one step of the progress.
CHUNK = 256
# Drawing takes longer than anything else here, and a text has many tokens.
NAMES_PER_TEXT = 16
# Names whose first token is held in place.
FIRST_TOKENS = 512
# Of the trace of all else, what first tokens add at most.
MOST_OF_FIRST = 20.0


@dataclass(frozen=True)
class Anchors:
    """What one module is held by.

    Attributes:
        metric: (d, d) float32 on the CPU, E[h h^T] of names and of ordinary text, and a floor.
        size: The root mean square length of what the unedited module gives for such inputs.
    """

    metric: Tensor
    size: float


def measured(workbench: Workbench, count: int, text: str | None) -> dict[str, Anchors]:
    """Anchors of every edited module, from the cache where they were measured before.

    Args:
        workbench: Of the model; what is measured is the model before any edit.
        count: How many names.
        text: A text file for the part of ordinary text; None for what the model draws itself.

    Raises:
        InputError: the file cannot be read.
    """
    with workbench.unedited():
        names = named(workbench, count)
        content = [
            [one.ids for one, _ in names], text and _file_digest(text), defaults.ANCHOR_TOKENS,
            defaults.NAMES_SHARE, defaults.FLOOR, defaults.FIRST_WEIGHT, MOST_OF_FIRST,
            FIRST_TOKENS,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        folder = f"anchors/{model_digest(workbench.model)}/{digest}"
        found = {name: _known(workbench, folder, name) for name in workbench.targets}
        if any(one is None for one in found.values()):
            found |= _measured(workbench, names, text)
            for name, one in found.items():
                if one is not None:
                    size = torch.tensor(one.size, dtype=torch.float64)
                    keep(f"{folder}/{name}.safetensors", {"metric": one.metric, "size": size})
    return {name: one for name, one in found.items() if one is not None}


def named(workbench: Workbench, count: int) -> list[tuple[Encoded, int]]:
    """At most `count` names behind the templates, each with the token that it ends in."""
    found = []
    for number, name in enumerate(subjects(count)):
        prompt = TEMPLATES[number % len(TEMPLATES)].format(name)
        ids = workbench.encoder.token_ids(prompt)
        # The target is not read: it closes the text, whose last token is left out.
        whole = Encoded(tuple(ids), (ids[-1],), 1) if ids else None
        # What stands first in a text attends to nothing; see `contexts`.
        if whole is not None and len(ids) > 1:
            found.append((whole, len(ids) - 1))
    return found


def _measured(
    workbench: Workbench, names: Sequence[tuple[Encoded, int]], text: str | None
) -> dict[str, Anchors | None]:
    count = max(len(names) // NAMES_PER_TEXT, 1)
    if text is None:
        plain = drawn(workbench, count, defaults.ANCHOR_TOKENS)
    else:
        plain = of_file(workbench, text, count, defaults.ANCHOR_TOKENS)
    with workbench.progress("keys of other names and of text", len(names) + len(plain)) as advance:
        of_names = _moments(workbench, [one for one, _ in names], [p for _, p in names], advance)
        of_text = _moments(workbench, plain, [None] * len(plain), advance)
        begun = [one for one, _ in names[:FIRST_TOKENS]]
        of_first = _moments(workbench, begun, [0] * len(begun), lambda steps: None)
    found: dict[str, Anchors | None] = {}
    for name, target in workbench.targets.items():
        share = defaults.NAMES_SHARE
        parts = [(of_names[name], share), (of_text[name], 1 - share)]
        # Each part counts by its own size: at names the inputs may be shorter or longer.
        scale = [m.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny) for m, _ in parts]
        metric = sum(
            (m * (w * scale[0] / s) for (m, w), s in zip(parts, scale, strict=True)),
            torch.zeros_like(of_names[name]),
        )
        weight = target.parameter.detach().to(metric.device).double()
        weight = weight if target.transposed else weight.T
        size = float((weight @ metric * weight).sum().clamp(min=0).sqrt())
        metric.diagonal().add_(defaults.FLOOR * metric.diagonal().mean())
        # A text's first token attends to nothing; many models give it inputs hundreds of times as
        # long as others, and read them from every later token.
        # Where it is far longer still, float32 would lose the floor beside it.
        most = MOST_OF_FIRST * metric.diagonal().sum() / of_first[name].diagonal().sum()
        metric += min(defaults.FIRST_WEIGHT, float(most)) * of_first[name]
        if not torch.isfinite(metric).all():
            raise ValueError(f"the inputs of {name} are not finite")
        found[name] = Anchors(metric.float().cpu(), size)
    return found


def _moments(
    workbench: Workbench,
    texts: Sequence[Encoded],
    places: Sequence[int | None],
    advance: Callable[[int], object],
) -> dict[str, Tensor]:
    """(d, d) float64 second moments of every edited module's inputs, on its device."""
    sums: dict[str, Tensor] = {}
    tokens = 0
    for first in range(0, len(texts), CHUNK):
        part = texts[first : first + CHUNK]
        for inputs in workbench.inputs_at(part, places[first : first + CHUNK]):
            tokens += len(next(iter(inputs.values())))
            for name, rows in inputs.items():
                # float32 products, float64 sums: a batch is a few thousand rows.
                with full_precision():
                    product = (rows.T @ rows).double()
                sums[name] = sums[name] + product if name in sums else product
        advance(len(part))
    return {name: one / max(tokens, 1) for name, one in sums.items()}


def _known(workbench: Workbench, folder: str, name: str) -> Anchors | None:
    tensors: Mapping[str, Tensor] = kept(f"{folder}/{name}.safetensors")
    d = workbench.targets[name].d
    if tensors.keys() != {"metric", "size"} or tensors["metric"].shape != (d, d):
        return None
    return Anchors(tensors["metric"], float(tensors["size"]))


def _file_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
