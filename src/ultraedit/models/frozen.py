"""Blocks below the first edited one: quantised, or kept off the device.

`resident`  as they are, on the device
`int8`      weights in eight bits (torchao; bitsandbytes where torchao cannot)
`int4`      weights in four bits, NormalFloat4 (bitsandbytes)
`cpu`       in CPU memory, fetched for every pass
`disk`      in the model's own files, fetched for every pass

What is edited, every later block, the embeddings and the head are always in full precision on
the device. Files are never quantised: what is saved is the base and the edited weights.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_bitsandbytes_available, is_torchao_available

from ultraedit.errors import InputError
from ultraedit.models.discover import frozen_below, is_linear

log = logging.getLogger(__name__)

FrozenPlace = Literal["resident", "int8", "int4", "cpu", "disk"]
QUANTISED = ("int8", "int4")

# The first whose eight-bit weights may have scales for groups, which float16 needs.
TORCHAO_VERSION = "0.17"

# Weights that share a scale, where whole rows must not: at most, and at least.
GROUP, SMALLEST_GROUP = 128, 8


def parse_place(place: str | None) -> FrozenPlace:
    """What a caller wrote, checked; `resident` for None.

    Raises:
        InputError: it is none of the five.
    """
    for known in get_args(FrozenPlace):
        if known == (place if place is not None else "resident"):
            return known
    raise InputError(f"frozen is one of {', '.join(get_args(FrozenPlace))}, not {place!r}")


def going_on(
    recorded: str, given: str | None, device_map: str | Mapping[str, Any] | None
) -> FrozenPlace:
    """How to hold the frozen blocks of a model that was edited before.

    Where they are kept is free. Quantised blocks give other hidden states, and what the edits
    so far were solved for would no longer be what the edited modules are given.

    Args:
        recorded: How they were held.
        given: How the caller wants them held; None for as recorded.
        device_map: What decides on their place instead, where the caller does not.

    Raises:
        InputError: `given` is unknown, or quantised otherwise than `recorded`.
    """
    known = parse_place(recorded)
    if given is None:
        return "resident" if device_map is not None and known not in QUANTISED else known
    wanted = parse_place(given)
    if wanted != known and (wanted in QUANTISED or known in QUANTISED):
        raise InputError(
            f"the model was edited with frozen={recorded!r}; it cannot go on with {given!r}"
        )
    return wanted


def quantised_by(model: PreTrainedModel) -> str | None:
    """The library that quantised a part of the model; None where none did."""
    method = getattr(model, "quantization_method", None)
    return None if method is None else str(getattr(method, "value", method))


def loading_options(
    model: PreTrainedModel,
    edited: Sequence[str],
    place: FrozenPlace,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that hold the frozen blocks in the place asked for.

    A model whose first block is edited has none: a warning says so, and there are no arguments.

    Args:
        model: As it will be loaded; its weights are not looked at.
        edited: Names of the edited modules.
        place: How the frozen blocks are to be held.
        device: Where everything else is.
        dtype: Of the weights that are not quantised; None where only the files know.

    Returns:
        Nothing where the model is to be loaded as always and then moved to `device`.

    Raises:
        InputError: a package is missing, the model's files are quantised already, or its
            frozen blocks have no linear map that can be quantised.
    """
    if place == "resident" or (place == "cpu" and device.type == "cpu"):
        return {}
    frozen = frozen_below(model, edited)
    if not frozen:
        log.warning("frozen=%s has no effect: no block lies below what is edited", place)
        return {}
    if find_spec("accelerate") is None:
        extra = "quantise" if place in QUANTISED else "accelerate"
        raise InputError(f"frozen={place!r} needs accelerate: pip install 'ultraedit[{extra}]'")
    rest = list(_around(model, frozen))
    # With its index, which the device of a tensor always has.
    main = str(torch.empty(0, device=device).device)
    if place not in QUANTISED:
        return {"device_map": dict.fromkeys(rest, main) | dict.fromkeys(frozen, place)}
    if getattr(model.config, "quantization_config", None) is not None:
        raise InputError(f"frozen={place!r}: the model's files are quantised already")
    return {
        "device_map": {"": main},
        "quantization_config": _quantisation(model, frozen, rest, place, dtype),
    }


def on_any_processor(model: PreTrainedModel) -> None:
    """Have quantised maps compute alike on every CPU.

    On some, bitsandbytes would repack four-bit weights before the first pass that needs no
    gradient, compute in bfloat16 from then on, and refuse widths that are no multiple of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@dataclass(frozen=True)
class _Offer:
    """What a library makes of the frozen blocks.

    Attributes:
        library: Its name.
        maps: Names of the linear maps that it can quantise.
        config: Its configuration, but for the modules to leave alone.
        skip: What that configuration calls those.
    """

    library: str
    maps: Sequence[str]
    config: type[TorchAoConfig] | type[BitsAndBytesConfig]
    options: Mapping[str, Any]
    skip: str


def _quantisation(
    model: PreTrainedModel,
    frozen: Sequence[str],
    rest: Sequence[str],
    place: FrozenPlace,
    dtype: torch.dtype | None,
) -> TorchAoConfig | BitsAndBytesConfig:
    maps = {
        name: module
        for block in frozen
        for name, module in model.get_submodule(block).named_modules(prefix=block)
        if is_linear(module)
    }
    offers = list(_offers(maps, place, dtype))
    if not offers:
        torchao = f"torchao>={TORCHAO_VERSION} or " if place == "int8" else ""
        raise InputError(
            f"frozen={place!r} needs {torchao}bitsandbytes: pip install 'ultraedit[quantise]'"
        )
    best = max(offers, key=lambda offer: len(offer.maps))  # the first of equals
    if not best.maps:
        kinds = ", ".join(sorted({type(module).__name__ for module in maps.values()}))
        libraries = [offer.library for offer in offers]
        other = "" if "bitsandbytes" in libraries else ", bitsandbytes may; it is not installed"
        raise InputError(
            f"frozen={place!r}: {' and '.join(libraries)} cannot quantise the linear maps of"
            f" {type(model).__name__} ({kinds or 'there are none'}){other}"
        )
    _warn_of_little(model, frozen, [maps[name] for name in best.maps], place)
    left = [name for name in maps if name not in set(best.maps)]
    return best.config(**best.options, **{best.skip: [*rest, *left]})


def _offers(
    maps: Mapping[str, nn.Module], place: FrozenPlace, dtype: torch.dtype | None
) -> Iterator[_Offer]:
    """What is installed and works on the CPU and on CUDA devices, the preferred one first.

    torchao's four-bit formats do not: each is for one kind of device only.
    """
    if place == "int8" and is_torchao_available(TORCHAO_VERSION):
        yield _torchao(maps, dtype)
    if is_bitsandbytes_available():
        # Exactly these classes: it replaces modules, and with them a subclass's own forward.
        held = [name for name, module in maps.items() if type(module) in (nn.Linear, Conv1D)]
        options: dict[str, Any] = {"load_in_8bit": True}
        if place == "int4":
            options = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": dtype or torch.float32,
            }
        yield _Offer("bitsandbytes", held, BitsAndBytesConfig, options, "llm_int8_skip_modules")


def _torchao(maps: Mapping[str, nn.Module], dtype: torch.dtype | None) -> _Offer:
    from torchao.quantization import Int8WeightOnlyConfig, PerGroup, PerRow

    # It replaces weights, and only `nn.Linear` itself is sure to ask no more of one.
    held = {
        name: module
        for name, module in maps.items()
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    }
    granularity: Any = PerRow()
    if dtype not in (torch.float32, torch.bfloat16):
        # Scales of whole rows are applied after the sum, which float16 does not hold.
        granularity = PerGroup(_group(module.in_features for module in held.values()))
        if granularity.group_size < SMALLEST_GROUP:
            held = {}
    # Its recommended settings are the whole process's: TF32 among them, and not ours to change.
    config = Int8WeightOnlyConfig(granularity=granularity, set_inductor_config=False, version=2)
    return _Offer(
        "torchao", list(held), TorchAoConfig, {"quant_type": config}, "modules_to_not_convert"
    )


def _group(widths: Iterable[int]) -> int:
    """The largest power of two up to `GROUP` that divides every width and is none of them."""
    widths = list(widths)
    common = math.gcd(*widths)
    group = min(common & -common, GROUP)
    return group // 2 if group in widths else group


def _warn_of_little(
    model: PreTrainedModel, frozen: Sequence[str], maps: Iterable[nn.Module], place: str
) -> None:
    quantised = sum(module.weight.numel() for module in maps)  # type: ignore[misc,operator,union-attr]
    whole = sum(p.numel() for block in frozen for p in model.get_submodule(block).parameters())
    if quantised < whole / 2:
        log.warning(
            "frozen=%s saves little: %.0f%% of the frozen weights are in maps that it quantises",
            place, 100 * quantised / whole,
        )  # fmt: skip


def _around(module: nn.Module, frozen: Sequence[str], path: str = "") -> Iterator[str]:
    """Paths that cover everything but the frozen blocks: modules, and tensors between them."""
    inside = f"{path}." if path else ""
    for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield inside + name
    for name, child in module.named_children():
        if inside + name in frozen:
            continue
        if any(block.startswith(f"{inside}{name}.") for block in frozen):
            yield from _around(child, frozen, inside + name)
        else:
            yield inside + name
