"""The two files of a PEFT adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.export.components import Components
from ultraedit.export.source import Origin
from ultraedit.storage.atomic import write_file
from ultraedit.storage.config_files import write_text
from ultraedit.storage.shards import write_tensors


def require_peft() -> Any:
    """The peft package.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("peft")
    except ImportError as error:
        raise InputError(f"a LoRA needs peft: pip install 'ultraedit[lora]' ({error})") from error


def write_adapter(
    folder: Path, parts: Mapping[str, Components], base: Origin, *, fan_in_fan_out: bool
) -> None:
    """Write an adapter whose scaling is 1.

    Args:
        folder: Where to.
        parts: Module -> its parts, as many of each.
        base: The model it is an adapter of.
        fan_in_fan_out: Whether modules store their weight as (d, e).
    """
    rank = max(len(held) for held in parts.values())
    tensors: dict[str, Tensor] = {}
    for name, held in parts.items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = held.inputs
        tensors[f"{prefix}.lora_B.weight"] = held.outputs.T
    config = require_peft().LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        bias="none",
        # Whole names: an ending would also match blocks that were not edited.
        target_modules=sorted(parts),
        fan_in_fan_out=fan_in_fan_out,
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base.name,
        revision=base.revision,
    )
    write_file(folder / "adapter_model.safetensors", lambda sink: write_tensors(tensors, sink))
    # PEFT's own writing lists sets in an order that differs from run to run.
    content = {
        name: sorted(value) if isinstance(value, (set, frozenset)) else value
        for name, value in config.to_dict().items()
    }
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(folder / "adapter_config.json", text + "\n")
