"""An edited model for llama.cpp: its base's GGUF file with other weights, or an adapter of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ultraedit.errors import InputError
from ultraedit.export.components import Components
from ultraedit.export.gguf_file import (
    Replacement,
    opened,
    quantised,
    require_gguf,
    write_replaced,
)
from ultraedit.export.modules import WEIGHT, EditedModules
from ultraedit.export.source import at_one_version, require_format
from ultraedit.export.staging import new_file
from ultraedit.models.gguf import GgufOrigin, digest_of
from ultraedit.storage.manifest import Manifest

if TYPE_CHECKING:
    pass

SAME = "same"
KINDS = ("f16", "f32", "bf16", "q8_0", SAME)
KEY = "ultraedit.edits"
# What a base's tensor may differ from the weight that was edited, relative to it: by the rounding
# to bfloat16 when the file was read, and no more.
ROUNDING = 2.0**-7
# Of transformers' model types, where llama.cpp calls them something else.
ARCHITECTURES = {
    "mistral": "llama", "gpt_neox": "gptneox", "gemma3_text": "gemma3", "cohere": "command-r",
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A GGUF file as it was written.

    Attributes:
        path: The file.
        base: The file that it was made from.
        kinds: Edited tensor -> its type before and now.
        names: Edited module -> its tensor.
    """

    path: Path
    base: Path
    kinds: Mapping[str, tuple[str, str]]
    names: Mapping[str, str]

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The edited weights as an engine reads them: module and (e, d) float32, one at a time."""
        found = {tensor.name: tensor for tensor in opened(self.path).tensors}
        for module, name in self.names.items():
            yield module, dequantised(found[name])


def dequantised(tensor: Any) -> torch.Tensor:
    """A reader's tensor, (rows, columns) float32."""
    values = require_gguf().quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(values.copy()).reshape(*reversed(tensor.shape.tolist()))


def base_of(out: Path, base: Path | None) -> Path:
    """The GGUF file that a model was edited from.

    Args:
        out: The edited model.
        base: The file, if it does not lie where it was.

    Raises:
        InputError: the model was not edited from a GGUF file, or the file is another one.
    """
    origin = GgufOrigin.of(out)
    if origin is None:
        raise InputError(
            f"{out} was not edited from a GGUF file: edit MODEL.gguf, or use --format gguf-lora"
        )
    path = Path(origin.path) if base is None else base
    if not path.is_file():
        raise InputError(f"{path} is not there; name the file it was edited from with --base")
    if digest_of(path) != origin.sha256:
        raise InputError(f"{path} is not the file that {out} was edited from: its content differs")
    return path


def write(
    out: str | Path, path: str | Path, *, kind: str = "f16", base: Path | None = None
) -> Written:
    """Write the base's file with the edited tensors in place of its own.

    All other tensors and all keys are the base's, byte for byte, which is checked; one key with
    what was edited is added.

    Args:
        out: A model that was edited from a GGUF file.
        path: The new file.
        kind: Type of the edited tensors, one of `KINDS`; `same` is the base tensor's own.
        base: The base's file, if it does not lie where it was.

    Raises:
        InputError: `out` cannot leave in this form, the base is missing or another file, or a type
            cannot be written.
        UltraEditError: `path` cannot be written; nothing is left of it.
    """
    out, path = Path(out), Path(path)
    if kind not in KINDS:
        raise InputError(f"--type is one of {', '.join(KINDS)}, not {kind!r}")
    require_gguf()
    file = base_of(out, base)
    return at_one_version(out, lambda manifest: _write(out, manifest, file, path, kind))


def _write(out: Path, manifest: Manifest, base: Path, path: Path, kind: str) -> Written:
    require_format(manifest, "checkpoint")
    gguf = require_gguf()
    modules = EditedModules(out, manifest)
    modules.check()
    reader = opened(base)
    names = tensor_names(modules, str(reader.fields["general.architecture"].contents()))
    found = {tensor.name: tensor for tensor in reader.tensors}
    replaced: dict[str, Replacement] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for module, name in names.items():
        if name not in found:
            raise InputError(f"{base} has no tensor {name}, which {module} was read from")
        tensor = found[name]
        difference = modules.difference(module)
        original, master = difference.original.float(), difference.master
        if not difference.transposed:
            original, master = original.T, master.T
        _check_orientation(tensor, original, base)
        wanted = tensor.tensor_type if kind == SAME else gguf.GGMLQuantizationType[kind.upper()]
        data = quantised(master.contiguous().numpy(), wanted)
        replaced[name] = Replacement(wanted, data)
        kinds[name] = tensor.tensor_type.name, wanted.name
    with new_file(path, outside=out) as staged:
        write_replaced(base, staged, replaced, {KEY: _provenance(manifest)})
    return Written(path, base, kinds, names)


def _check_orientation(tensor: Any, original: torch.Tensor, base: Path) -> None:
    """Whether a file's tensor is the weight that was edited, in the same layout.

    Raises:
        InputError: it is permuted, scaled, or another one.
    """
    held = dequantised(tensor)
    if held.shape == original.shape:
        off = (held - original).norm() / original.norm()
        if off <= ROUNDING:
            return
    raise InputError(f"{tensor.name} of {base} is laid out in another way than the edited weight")


def tensor_names(modules: EditedModules, architecture: str) -> dict[str, str]:
    """Module -> the name of its weight in GGUF.

    Args:
        modules: What was edited.
        architecture: As GGUF names it.

    Raises:
        InputError: package gguf does not know the architecture, or a name of it.
    """
    gguf = require_gguf()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        raise InputError(f"package gguf knows no architecture {architecture}")
    known = gguf.get_tensor_name_map(kinds[architecture], 1024)
    names = {}
    for module in modules.names:
        name = known.get_name(module + WEIGHT, try_suffixes=(WEIGHT,))
        if name is None:
            raise InputError(f"{module} has no name in GGUF's architecture {architecture}")
        names[module] = name
    return names


def architecture_of(out: Path) -> str:
    """What GGUF calls the architecture of a model.

    Raises:
        InputError: the model's config has no type.
    """
    try:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        kind = str(config["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{out} has no config with a model type: {error}") from error
    return ARCHITECTURES.get(kind, kind)


def write_adapter(
    path: Path, parts: Mapping[str, Components], names: Mapping[str, str], architecture: str
) -> None:
    """Write an adapter of llama.cpp whose scale is 1.

    Args:
        path: The new file.
        parts: Module -> its parts, as many of each.
        names: Module -> its weight's name in GGUF.
        architecture: As GGUF names it.
    """
    gguf = require_gguf()
    rank = max(len(held) for held in parts.values())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    # llama.cpp scales by alpha over rank.
    writer.add_float32("adapter.lora.alpha", float(rank))
    for module, held in parts.items():
        writer.add_tensor(f"{names[module]}.lora_a", held.inputs.contiguous().numpy())
        writer.add_tensor(f"{names[module]}.lora_b", held.outputs.T.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _provenance(manifest: Manifest) -> str:
    settings = manifest.settings
    return json.dumps(
        {
            "ultraedit": version("ultraedit"), "method": settings["method"],
            "turns": settings["turns"], "edits": settings["edits"],
        }
    )  # fmt: skip
