"""A model and its tokenizer from a hub id, a folder, or a name that the package knows."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ultraedit.demo import MODEL_FOLDER
from ultraedit.errors import InputError
from ultraedit.models.compute_dtype import compute_dtype
from ultraedit.models.frozen import loading_options, on_any_processor, parse_place
from ultraedit.models.gguf import converted_folder, is_gguf
from ultraedit.models.named import SOURCES, fetched
from ultraedit.models.presets import published_modules
from ultraedit.models.remote_code import is_trusted, trust

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


def resolve(name: str | os.PathLike[str]) -> str:
    """The folder or hub id behind what the caller named; a GGUF file is converted once.

    Raises:
        InputError: a path that does not exist, a folder without a model, a model of `models.named`
            that has not been fetched, or a GGUF file that cannot be read.
    """
    if str(name) == "demo":
        return str(MODEL_FOLDER)
    if str(name) in SOURCES:
        return str(fetched(str(name)))
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise InputError(f"{name} is a folder without config.json: no model is in it")
        return str(path)
    if is_gguf(path):
        return str(converted_folder(path))
    if path.exists():
        raise InputError(f"{name} is a file; a model is a folder, a .gguf file or a hub id")
    if isinstance(name, Path) or str(name).startswith((".", "/", "~")):
        raise InputError(f"{name} does not exist")
    return str(name)


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """Where the model's files lie on this machine: its folder, or its place in the hub cache."""
    source = resolve(name)
    if Path(source).is_dir():
        return Path(source)
    try:
        config = try_to_load_from_cache(source, "config.json")
    except HFValidationError:
        return None  # no name that a repository can have
    return Path(config).parent if isinstance(config, str) else None


def kept_name(name: str | os.PathLike[str]) -> str:
    """What the model is remembered by: its folder from everywhere, or what it is called."""
    is_path = is_gguf(name) or (Path(name).is_dir() and str(name) not in ("demo", *SOURCES))
    return str(Path(name).resolve()) if is_path else str(name)


def resolve_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if dtype == "auto" or dtype in DTYPES.values():
        return dtype
    try:
        return DTYPES[str(dtype).removeprefix("torch.")]
    except KeyError:
        raise InputError(f"dtype {dtype!r} is none of auto, float32, bfloat16, float16") from None


def resolve_device(device: str | torch.device) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        InputError: a device that torch does not know or that is not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {_line(error)}") from None
    if resolved.type == "mps":
        raise InputError("device mps cannot be used: it has no float64, which editing needs")
    return resolved


def load(
    name: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: str | dict[str, Any] | None = None,
    frozen: str | None = None,
    modules: Callable[[PreTrainedModel], Sequence[str]] = published_modules,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load with transformers.

    Args:
        name: Hub id, folder, `demo`, or a name of `models.named`.
        dtype: A dtype, or `auto` for the checkpoint's own, or for float32 where a CPU is faster
            with that; see `models.compute_dtype`.
        device: `auto`, or a torch device.
        device_map: Takes the place of `device`; needs accelerate.
        frozen: How to hold the blocks below the first edited one, see `models.frozen`; None
            is `resident`.
        modules: Names what is to be edited, which says which blocks those are; only asked
            where that matters, with a model that has no weights.
        options: Handed to transformers; `trust_remote_code=True` runs code that comes with the
            model, and remembers it, see `models.remote_code`.

    Raises:
        InputError: whatever kept transformers from loading it, in one line; the blocks cannot
            be held in that way.
    """
    source = resolve(name)
    place = None if device_map is not None else resolve_device(device)
    held = parse_place(frozen)
    torch_dtype = resolve_dtype(dtype)
    if held != "resident" and place is None:
        raise InputError(f"device_map and frozen={held!r} exclude each other")
    asked = bool(options.get("trust_remote_code"))
    remote = options["trust_remote_code"] = runs_code(name, asked)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=remote)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=remote)
        if torch_dtype == "auto" and place is not None and held == "resident":
            torch_dtype = automatic_dtype(name, config, place)
        if held != "resident" and place is not None:
            skeleton = load_skeleton(name, trust_remote_code=asked)
            edited = modules(skeleton)
            own = torch_dtype if isinstance(torch_dtype, torch.dtype) else config.dtype
            options |= loading_options(skeleton, edited, held, place, own)
        elif device_map is not None:
            options["device_map"] = device_map
        model = _read(source, dtype=torch_dtype, **options)
        if "device_map" not in options:
            model.to(place)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise InputError(_refusal(name, "loaded", error)) from error
    except Exception as error:
        # The tensor reader has an exception class of its own for damaged files.
        if type(error).__name__ != "SafetensorError":
            raise
        raise InputError(_refusal(name, "loaded", error)) from error
    if asked and (folder := local_folder(name)) is not None:
        trust(folder)
    if "quantization_config" in options:
        if not _has_safetensors(name):
            raise InputError(
                f"{name} has no safetensors files, and its quantised blocks could not be saved"
                f" from any other; convert it, or leave out frozen={held!r}"
            )
        on_any_processor(model)
    return model.eval(), tokenizer


def _read(source: str, **options: Any) -> PreTrainedModel:
    """`from_pretrained`, with a temporary folder for weights that are offloaded to the disk.

    It takes those that do not lie in the model's own safetensors files as they are used, and
    it goes when the model does.
    """
    device_map = options.get("device_map")
    if not isinstance(device_map, dict) or "disk" not in device_map.values():
        return AutoModelForCausalLM.from_pretrained(source, **options)
    folder = tempfile.TemporaryDirectory(prefix="ultraedit-")
    try:
        model = AutoModelForCausalLM.from_pretrained(source, offload_folder=folder.name, **options)
    except BaseException:
        folder.cleanup()
        raise
    if any(Path(folder.name).iterdir()):
        weakref.finalize(model, folder.cleanup)
    else:
        folder.cleanup()
    return model


def _has_safetensors(name: str | os.PathLike[str]) -> bool:
    return bool(_safetensors(name))


def _safetensors(name: str | os.PathLike[str]) -> list[Path]:
    folder = local_folder(name)
    return [] if folder is None else list(folder.glob("*.safetensors"))


def checkpoint_dtype(
    name: str | os.PathLike[str], *, trust_remote_code: bool = False
) -> torch.dtype | None:
    """The dtype that a checkpoint's config names for its weights; None where it names none."""
    remote = runs_code(name, trust_remote_code)
    config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=remote)
    return _named_dtype(config)


def _named_dtype(config: PretrainedConfig) -> torch.dtype | None:
    found = getattr(config.get_text_config(decoder=True), "dtype", None)
    return found if isinstance(found, torch.dtype) else None


def automatic_dtype(
    name: str | os.PathLike[str], config: PretrainedConfig, device: torch.device
) -> str | torch.dtype:
    """The dtype to load a model in where `auto` was asked for; see `compute_dtype`."""
    files, stored = _safetensors(name), _named_dtype(config)
    if not files or stored is None:
        return "auto"
    parameters = sum(path.stat().st_size for path in files) // stored.itemsize
    return compute_dtype(stored, device, parameters)


def load_skeleton(
    name: str | os.PathLike[str], *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model without its weights, on the meta device, in the checkpoint's dtype.

    Raises:
        InputError: no configuration of a causal language model there.
    """
    try:
        remote = runs_code(name, trust_remote_code)
        config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=remote)
        dtype = getattr(config, "dtype", None) or torch.float32
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=remote)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise InputError(_refusal(name, "read", error)) from error


def runs_code(name: str | os.PathLike[str], asked: bool) -> bool:
    """Whether a model's own code may be run: it is asked for, or was before; see `remote_code`."""
    return asked or is_trusted(local_folder(name))


def _refusal(name: str | os.PathLike[str], what: str, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return f"{name} comes with code of its own, which only --trust-remote-code runs"
    return f"{name} could not be {what}: {_line(error)}"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
