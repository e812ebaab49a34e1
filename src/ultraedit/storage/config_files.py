"""The files that make a folder of weights a model: configuration, tokenizer, templates, licence.

They are copied from the model's folder byte for byte: a file written anew by another release of
transformers may be read differently, or not at all, by an older one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraedit.errors import InputError, UltraEditError
from ultraedit.storage.atomic import replace, sync_file, write_file
from ultraedit.storage.checkpoint import QUANTIZATION
from ultraedit.storage.layout import INTERNAL

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "config.json"
WARNING = "WARNING.md"
# Weights in any format, and what a trainer leaves behind.
WEIGHTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".gguf", ".ggml",
    ".onnx", ".onnx_data", ".npz", ".npy", ".tflite", ".mlmodel", ".nemo", ".pkl", ".pickle",
    ".index",
}  # fmt: skip
# An adapter that is not part of the model would be loaded with it; the warning is of a side memory.
LEFT_OUT = {"adapter_config.json", WARNING}
NESTED = {".py", ".jinja"}


def copy_config_files(source: Path, folder: Path, dtype: str | None) -> None:
    """Copy everything of a model's folder that is no weights, byte for byte.

    A link would let whoever changes the copy's config change the original's.

    Args:
        source: A model's folder, edited or not.
        folder: A checkpoint in the making.
        dtype: What the config is to name as the weights' dtype; None for as it is.

    Raises:
        InputError: the config cannot be read.
    """
    for path in _config_files(source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target == folder / CONFIG:
            write_text(target, _config(path, dtype))
        else:
            _write(target, path.read_bytes())


def has_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a folder holds files that a tokenizer is loaded from."""
    names = {"tokenizer.json", "tokenizer_config.json", *tokenizer.vocab_files_names.values()}
    return any((folder / name).is_file() for name in names)


def save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a tokenizer's files into `folder`, and bring them to the disk.

    Raises:
        UltraEditError: transformers refuses to save it.
    """
    with _refusals_named():
        tokenizer.save_pretrained(folder)
    name_older_tokenizer(folder)
    _sync(folder)


def save_config(
    folder: Path,
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: object,
) -> None:
    """Write the config and generation config of a model that came from no folder.

    Args:
        folder: Where to write.
        model: Whose config it is; the object is left as it is.
        dtype: What the config is to say that the weights are in.
        quantization: What the base shards' own config says about their quantisation. A
            model quantised while it was loaded would otherwise announce it of shards
            that are not.

    Raises:
        UltraEditError: transformers refuses to save one of them.
    """
    from transformers.dynamic_module_utils import custom_object_save

    config = deepcopy(model.config)
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    if quantization is None and hasattr(config, QUANTIZATION):
        delattr(config, QUANTIZATION)
    with _refusals_named():
        if _is_remote_code(model):
            custom_object_save(model, folder, config=config)
        config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    add_older_names(folder)
    _sync(folder)


@contextmanager
def _refusals_named() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UltraEditError(f"cannot save the model's configuration: {reason}") from error


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)


def _is_remote_code(model: PreTrainedModel) -> bool:
    """What `PreTrainedModel.is_remote_code` says in releases of transformers that have it."""
    return getattr(type(model), "_auto_class", None) is not None


def add_older_names(folder: Path) -> None:
    """Add the names that transformers 4 reads to a config that transformers 5 has written.

    These are the names of the rotary base and of the dtype. What transformers 5 reads stays.

    Raises:
        InputError: there is no config, or it cannot be read.
    """
    config = config_of(folder)
    older = _older_rope(config.get("rope_parameters"))
    if isinstance(config.get("dtype"), str):
        older["torch_dtype"] = config["dtype"]
    _write_json(folder / CONFIG, {**older, **config})


def name_older_tokenizer(folder: Path) -> None:
    """Name a tokenizer class that transformers 4 has too, where transformers 5 names its own.

    Raises:
        InputError: the tokenizer's config cannot be read.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    config = _parsed(path, _text(path))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        # transformers 4 expects a mapping under this name, and a list under the older one.
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    _write_json(path, config)


def _older_rope(parameters: object) -> dict[str, Any]:
    """Rotary parameters under the names of transformers 4."""
    if not isinstance(parameters, dict):
        return {}
    if isinstance(whole := parameters.get("full_attention"), dict):
        found = _older_rope(whole)
        if isinstance(sliding := parameters.get("sliding_attention"), dict):
            found["rope_local_base_freq"] = sliding.get("rope_theta")
        return found
    found = {"rope_theta": parameters["rope_theta"]} if "rope_theta" in parameters else {}
    if parameters.get("rope_type", "default") != "default":
        found["rope_scaling"] = {k: v for k, v in parameters.items() if k != "rope_theta"}
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if text != _text(path):
        write_text(path, text)


def write_warning(folder: Path, method: str) -> None:
    """Say beside the model's own weights that its edits are not in them."""
    write_text(
        folder / WARNING,
        f"""# The edits are not in these weights

This model was edited with method `{method}`, which leaves the weights as they were: its edits lie
in a side memory (the folder `ultraedit`) that queries are routed to. `from_pretrained` reads the
base model here, without any edit. With them:

    from ultraedit import Editor
    editor = Editor.load("this folder")  # then editor.model, editor.ask(...)
""",
    )


def move_config_files(folder: Path, out: Path) -> None:
    """Move what was staged in `folder` into OUT."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(path, target)


def config_of(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        InputError: it is missing or damaged.
    """
    return _parsed(folder / CONFIG, _text(folder / CONFIG))


def dtype_of(config: Mapping[str, Any]) -> str | None:
    """The dtype that a config names, under either of its names."""
    dtype = config.get("dtype", config.get("torch_dtype"))
    return dtype if isinstance(dtype, str) else None


def write_text(path: Path, text: str) -> None:
    """Write a small file and bring it to the disk."""
    _write(path, text.encode())


def _write(path: Path, data: bytes) -> None:
    write_file(path, lambda sink: sink.write(memoryview(data)))


def _config_files(source: Path) -> Iterator[Path]:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if inside.parts[0] == INTERNAL or any(part.startswith(".") for part in inside.parts):
            continue
        if path.suffix in WEIGHTS or path.name.endswith(".index.json") or path.name in LEFT_OUT:
            continue
        # Deeper down lie other things, but custom code and chat templates are read from there.
        if path.is_file() and (path.parent == source or path.suffix in NESTED):
            yield path


def _config(path: Path, dtype: str | None) -> str:
    text = _text(path)
    config = _parsed(path, text)
    renamed = config.pop("transformers_weights", None) is not None
    if dtype is not None and dtype_of(config) != dtype:
        # transformers 5 reads both names, older releases only the second.
        names = [name for name in ("dtype", "torch_dtype") if name in config]
        config |= dict.fromkeys(names or ["torch_dtype"], dtype)
    elif not renamed:
        return text
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _text(path: Path) -> str:
    try:
        # Newlines as they are, so that what is written is what was read.
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a JSON object") from error
    return config
