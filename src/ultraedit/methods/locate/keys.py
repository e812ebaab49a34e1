"""What modules see at a subject's last token, averaged over what may stand before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ultraedit.forward.positions import Spots, recorded
from ultraedit.methods.base import Workbench
from ultraedit.methods.locate.contexts import Located


@torch.no_grad()
def at_places(
    workbench: Workbench, modules: Mapping[str, nn.Module], texts: Sequence[Located]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs (n, d) and outputs (n, e) of each module at the texts' tokens, in float32."""
    places = [one.place for one in texts]
    order: list[int] = []
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}
    for batch in workbench.batches([one.text for one in texts]):
        with recorded(modules, Spots.of(batch, places)) as seen:
            workbench.logits(batch)
        order += batch.index.tolist()
        for name, pair in seen.items():
            parts[name].append(pair)
    back = torch.argsort(torch.tensor(order))
    return {
        name: (torch.cat([i for i, _ in own])[back], torch.cat([o for _, o in own])[back])
        for name, own in parts.items()
    }


def mean_keys(
    workbench: Workbench, modules: Mapping[str, nn.Module], texts: Sequence[Sequence[Located]]
) -> dict[str, Tensor]:
    """(edits, d) of each module: the mean of its inputs over every edit's texts."""
    found = at_places(workbench, modules, [one for own in texts for one in own])
    sizes = [len(own) for own in texts]
    return {
        name: torch.stack([part.mean(0) for part in torch.split(inputs, sizes)])
        for name, (inputs, _) in found.items()
    }
