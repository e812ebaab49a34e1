"""Keys and values of running generations: put together, picked from, with padding on the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, get_layer_types_and_kwargs

# Layers whose keys and values can be kept whole; a sliding window is then a matter of the mask.
ATTENTION = {"full_attention", "sliding_attention", "dummy"}


@dataclass
class Held:
    """What a model holds of some rows.

    Attributes:
        cache: Its own object.
        mask: (rows, columns) int64, 0 where a shorter row is padded on the left; of the columns
            that the cache has, and of those of the pass that is about to run.
        places: (rows,) int64, the position of each row's next token.
    """

    cache: Any
    mask: Tensor
    places: Tensor

    def extend(self, given: Tensor) -> Tensor:
        """Make room in the mask for a pass.

        Args:
            given: (rows, columns) int64, 0 where the pass is padded on the left.

        Returns:
            (rows, columns) positions of its tokens.
        """
        self.mask = torch.cat([self.mask, given], 1)
        positions = self.places[:, None] + (given.cumsum(1) - 1).clamp(min=0)
        self.places = self.places + given.sum(1)
        return positions


@dataclass(frozen=True)
class Caches:
    """How a model's caches are made and changed.

    Attributes:
        can_merge: Whether rows of several caches can go on in one: a model that keeps running
            states instead of keys and values allows no padding.
        config: Of the model.
        device: Where masks are wanted.
    """

    can_merge: bool
    config: Any
    device: torch.device

    @staticmethod
    def of(model: PreTrainedModel) -> Caches:
        config: Any = model.config
        kinds, _ = get_layer_types_and_kwargs(config.get_text_config(decoder=True))
        device = model.get_input_embeddings().weight.device
        return Caches(set(kinds) <= ATTENTION, config, device)

    def empty(self, rows: int) -> Held:
        """Of rows without a token; of one, where they cannot be put together."""
        cache = DynamicCache() if self.can_merge else DynamicCache(config=self.config)
        mask = torch.zeros(rows, 0, dtype=torch.int64, device=self.device)
        return Held(cache, mask, torch.zeros(rows, dtype=torch.int64, device=self.device))

    def merged(self, one: Held, other: Held, order: Sequence[int]) -> Held:
        """Rows of both, those of `one` first, then put into an order; both are used up."""
        length = max(one.mask.shape[1], other.mask.shape[1])
        places = torch.tensor(order, device=self.device)
        for mine, theirs in zip(one.cache.layers, other.cache.layers, strict=True):
            if not isinstance(mine, DynamicLayer) or not mine.is_initialized:
                continue
            for what in ("keys", "values"):
                both = torch.cat([
                    _padded(getattr(mine, what), length), _padded(getattr(theirs, what), length)
                ])  # fmt: skip
                setattr(theirs, what, None)
                setattr(mine, what, both[places.to(both.device)])
        mask = torch.cat([_left(one.mask, length), _left(other.mask, length)])[places]
        return Held(one.cache, mask, torch.cat([one.places, other.places])[places])

    def select(self, held: Held, rows: Sequence[int]) -> None:
        """Keep some rows, and no column that is padding in all of them."""
        places = torch.tensor(rows, device=self.device)
        held.mask, held.places = held.mask[places], held.places[places]
        held.cache.batch_select_indices(places)
        if not self.can_merge:
            return
        unused = int(held.mask.shape[1] - held.mask.sum(1).max())
        if unused:
            held.mask = held.mask[:, unused:]
            for layer in held.cache.layers:
                if layer.is_initialized:
                    layer.keys = layer.keys[:, :, unused:].contiguous()
                    layer.values = layer.values[:, :, unused:].contiguous()


def _left(mask: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))


def _padded(states: Tensor, length: int) -> Tensor:
    """(rows, heads, length, size), zeros in front."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))
