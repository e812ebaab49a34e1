"""Find the MLP projections of a decoder from its structure."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ultraedit.errors import UnsupportedModelError
from ultraedit.forward.prefix import PREFIX_BYTES, Prefix

Role = Literal["input", "output"]

# Only attention gets position ids or a mask.
_ATTENTION_ARGUMENTS = {
    "attention_mask",
    "position_embeddings",
    "position_ids",
    "alibi",
    "layer_past",
}


@dataclass(frozen=True)
class Projection:
    """A linear map of a decoder block's MLP.

    Attributes:
        name: Path of the module in the model.
        block: Number of the decoder block it is in, from 0.
        role: `input` maps the hidden state into the MLP (gate, up, or both fused),
            `output` maps back (down).
    """

    name: str
    block: int
    role: Role


def decoder_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder's blocks.

    Raises:
        UnsupportedModelError: no list of that many blocks in the model.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    decoder = model.get_decoder()
    paths = {id(module): name for name, module in model.named_modules()}
    for root in (decoder, model):
        for module in root.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return paths[id(module)], module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of {count} decoder blocks;"
        " it is no decoder this can edit"
    )


def frozen_below(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Paths of the blocks before the first that holds one of the modules.

    Args:
        model: A decoder; may be without weights.
        names: Modules that are edited.

    Returns:
        None of them where the first block is edited, or a module outside the blocks.
    """
    try:
        path, _ = decoder_blocks(model)
    except UnsupportedModelError:
        return []
    if not names or not all(name.startswith(f"{path}.") for name in names):
        return []
    first = min(int(name.removeprefix(f"{path}.").split(".")[0]) for name in names)
    return [f"{path}.{number}" for number in range(first)]


def prefix_below(model: PreTrainedModel, names: Sequence[str]) -> Prefix | None:
    """The blocks of `frozen_below`, to be run once a text; None where there are none."""
    frozen = len(frozen_below(model, names))
    if not frozen:
        return None
    _, blocks = decoder_blocks(model)
    return Prefix(model, list(blocks), frozen, PREFIX_BYTES)


def projections(model: PreTrainedModel) -> list[Projection]:
    """Every MLP projection, block by block, in the order the block defines them.

    Raises:
        UnsupportedModelError: a block has none; fused experts are named.
    """
    path, blocks = decoder_blocks(model)
    width = model.config.get_text_config(decoder=True).hidden_size
    found: list[Projection] = []
    fused: list[str] = []
    for number, block in enumerate(blocks):
        linears = _mlp_linears(block)
        inner = {features(m)[0] for m in linears.values() if features(m)[1] == width}
        for name, module in linears.items():
            d, e = features(module)
            # A gated MLP may fuse gate and up into one map of twice the inner width.
            widens = d == width and (e in inner or (e % 2 == 0 and e // 2 in inner))
            # As wide inside as outside, only the last one leads back out.
            square = d == e == width and module is list(linears.values())[-1]
            if widens and not square:
                found.append(Projection(f"{path}.{number}.{name}", number, "input"))
            elif e == width:
                found.append(Projection(f"{path}.{number}.{name}", number, "output"))
        fused += [f"{path}.{number}.{name}" for name in _fused_experts(block)]
    if not found:
        if fused:
            raise UnsupportedModelError(
                f"{fused[0]} holds the weights of all experts in one tensor;"
                " fused experts cannot be edited yet"
            )
        raise UnsupportedModelError(
            f"no MLP projections found in the blocks of {type(model).__name__};"
            " name them with modules=[...]"
        )
    return found


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def features(module: nn.Module) -> tuple[int, int]:
    """(d, e) of a linear map, also of a quantised one whose weight tensor is packed."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
    return int(rows), int(columns)


def _mlp_linears(block: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, child in block.named_children():
        if is_linear(child):
            found[prefix + name] = child
        elif not _is_attention(child):
            found |= _mlp_linears(child, f"{prefix}{name}.")
    return found


def _is_attention(module: nn.Module) -> bool:
    return bool(_ATTENTION_ARGUMENTS & set(inspect.signature(module.forward).parameters))


def _fused_experts(block: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in block.named_parameters()
        if parameter.dim() == 3 and "expert" in name.lower()
    ]
