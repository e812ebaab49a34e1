"""The small files that make a folder of weights a model: config, generation config, tokenizer."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import replace, sync_file
from ultraedit.storage.checkpoint import QUANTIZATION

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WARNING = "WARNING.md"
PROCESSORS = "*processor_config.json"


def stage_cards(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    source: Path | None,
    quantization: object,
) -> None:
    """Write config, generation config and tokenizer into a folder beside the final one.

    Args:
        folder: Where to write.
        model: Whose config it is; the object is left as it is.
        tokenizer: Its tokenizer.
        dtype: What the config is to say that the weights are in.
        source: The folder it was loaded from: gives the processors' files that neither
            model nor tokenizer knows of.
        quantization: What the base shards' own config says about their quantisation. A
            model quantised while it was loaded would otherwise announce it of shards
            that are not.

    Raises:
        UltraEditError: transformers refuses to save one of them.
    """
    from transformers.dynamic_module_utils import custom_object_save

    folder.mkdir()
    config = deepcopy(model.config)
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    if quantization is None and hasattr(config, QUANTIZATION):
        delattr(config, QUANTIZATION)
    try:
        if _is_remote_code(model):
            custom_object_save(model, folder, config=config)
        config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UltraEditError(f"cannot save the model's configuration: {reason}") from error
    for path in sorted(source.glob(PROCESSORS)) if source is not None else ():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)


def _is_remote_code(model: PreTrainedModel) -> bool:
    """What `PreTrainedModel.is_remote_code` says in releases of transformers that have it."""
    return getattr(type(model), "_auto_class", None) is not None


def stage_warning(folder: Path, method: str) -> None:
    """Say beside the model's own weights that its edits are not in them."""
    path = folder / WARNING
    path.write_text(
        f"""# The edits are not in these weights

This model was edited with method `{method}`, which leaves the weights as they were: its edits lie
in a side memory (the folder `ultraedit`) that queries are routed to. `from_pretrained` reads the
base model here, without any edit. With them:

    from ultraedit import Editor
    editor = Editor.load("this folder")  # then editor.model, editor.ask(...)
""",
        encoding="utf-8",
    )
    sync_file(path)


def move_cards(folder: Path, out: Path) -> None:
    """Move what `stage_cards` wrote into OUT."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(path, target)
