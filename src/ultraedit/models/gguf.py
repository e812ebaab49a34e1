"""GGUF files as models: converted once into a folder that transformers opens."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from ultraedit.errors import InputError
from ultraedit.models.named import models_folder
from ultraedit.storage.config_files import add_older_names, name_older_tokenizer

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
# Beside the converted weights, and in every folder of edits: which file they came from.
ORIGIN = "gguf.json"


@dataclass(frozen=True)
class GgufOrigin:
    """The GGUF file that a folder was converted from.

    Attributes:
        path: Where it lay.
        sha256: Of its content: its identity.
    """

    path: str
    sha256: str

    @staticmethod
    def of(folder: Path) -> GgufOrigin | None:
        """What a folder says; None if it was not converted from a GGUF file.

        Raises:
            InputError: the note of it is damaged.
        """
        try:
            content = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
            return GgufOrigin(str(content["path"]), str(content["sha256"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / ORIGIN} is damaged: {error}") from error


def is_gguf(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a GGUF file that is there."""
    return Path(name).suffix.lower() == SUFFIX and Path(name).is_file()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, computed once while it stays as it is."""
    status = path.stat()
    return _digest(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def converted_folder(path: Path) -> Path:
    """The folder of a GGUF file's weights and tokenizer, made if it is not there yet.

    Two processes at once make it once. An interrupted one leaves nothing behind that counts.

    Raises:
        InputError: package gguf is missing, or transformers cannot read the file.
    """
    digest = digest_of(path)
    folder = models_folder().parent / "gguf" / digest[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / ORIGIN).is_file():
            logger.info("converting %s, once; large files take minutes", path)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as temporary:
                work = Path(temporary) / "model"
                convert(path, work)
                origin = GgufOrigin(str(path.resolve()), digest)
                (work / ORIGIN).write_text(json.dumps(asdict(origin), indent=2) + "\n")
                shutil.rmtree(folder, ignore_errors=True)
                work.rename(folder)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file as a folder that transformers opens, in bfloat16.

    transformers marks what it reads from GGUF as quantised, though its weights are dense, and
    refuses to save it: the weights go into a fresh model.

    Raises:
        InputError: package gguf is missing, or transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        read = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise InputError(
            f"reading GGUF needs package gguf (pip install 'ultraedit[gguf]'): {error}"
        ) from None
    except Exception as error:  # each architecture's own: KeyError, TypeError, struct.error ...
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{file} could not be converted{_described(file)}: {reason}") from None
    plain = read.config.to_dict()
    plain.pop("quantization_config", None)
    fresh = AutoModelForCausalLM.from_config(
        type(read.config).from_dict(plain), dtype=torch.bfloat16
    )
    fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    add_older_names(folder)
    name_older_tokenizer(folder)


def _described(file: Path) -> str:
    """The architecture and the types of a file's weights, as far as they can be read."""
    try:
        from gguf import GGUFReader

        reader = GGUFReader(file)
        architecture = reader.fields["general.architecture"].contents()
        types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    except Exception:  # the file may be anything
        return ""
    return f" (architecture {architecture}, weights in {', '.join(types)})"
