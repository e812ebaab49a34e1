"""Where a task of some name comes from: a data file, a task file, or the harness itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ultraedit.ability import records
from ultraedit.errors import InputError

READY_MADE = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Source:
    """One task as it was asked for.

    Attributes:
        name: The task's, or a group's or tag's of the harness.
        file: The data file of a ready-made task; None where a task file or the harness says
            what the data is.
    """

    name: str
    file: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether the harness's own list of tasks is not needed for it."""
        return self.file is not None


def ready_made() -> list[str]:
    """Names of the tasks whose files are in the package."""
    return sorted(path.stem for path in READY_MADE.glob("*.yaml"))


def find(names: Sequence[str], data: Path | None) -> list[Source]:
    """Look each name up among the data files of ready-made tasks.

    Args:
        names: In the order of the report.
        data: A folder with `NAME.jsonl` at any depth.

    Raises:
        InputError: no names, one twice, no such folder, or a file that stands there twice.
    """
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError("name at least one task, as in --tasks arc_easy,piqa")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"task {twice} is named twice")
    if data is None:
        return [Source(name) for name in names]
    if not data.is_dir():
        raise InputError(f"{data} is no folder; --data takes one with task files or .jsonl files")
    known = set(ready_made())
    return [Source(name, _data_file(data, name) if name in known else None) for name in names]


def _data_file(data: Path, name: str) -> Path | None:
    if (direct := data / f"{name}.jsonl").is_file():
        return direct
    found = sorted(path for path in data.rglob(f"{name}.jsonl") if path.is_file())
    if len(found) > 1:
        raise InputError(f"{data} holds {name}.jsonl twice: {found[0]} and {found[1]}")
    return found[0] if found else None


def task_config(source: Source) -> dict[str, Any]:
    """The configuration of a ready-made task with its records in it, as the harness takes it.

    The records are read and checked here, so that what is wrong with a file is named by its
    record and field, and no copy of the file goes into the cache of data sets.

    Raises:
        InputError: the data file is empty or a record of it is broken.
    """
    if source.file is None:
        raise ValueError(f"task {source.name} has no data file")
    text = (READY_MADE / f"{source.name}.yaml").read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    found = records.read(source.file, config["metadata"].pop("layout"))
    split = config["test_split"]
    del config["dataset_path"], config["dataset_kwargs"]

    def dataset(**_: Any) -> Mapping[str, Any]:
        from datasets import Dataset

        return {split: Dataset.from_list(found)}

    return config | {"custom_dataset": dataset}
