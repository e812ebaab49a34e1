"""Models that share their weights in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain

from transformers import PreTrainedModel


def sharing(model: PreTrainedModel, apart: Sequence[str] = ()) -> PreTrainedModel:
    """Another model over the same parameters, with modules and hooks of its own.

    Args:
        model: What is shared.
        apart: Modules whose weights are copied, so that they can be changed.
    """
    own = {id(model.get_submodule(name).weight) for name in apart}
    shared = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(one): one for one in shared if id(one) not in own})
