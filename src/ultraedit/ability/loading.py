"""Tasks by their names, from the harness's task manager, with one line for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ultraedit.ability.isolation import isolated
from ultraedit.ability.sources import Source, ready_made, task_config
from ultraedit.data.faults import cause
from ultraedit.errors import InputError

OF_HARNESS = "lm-eval"


def require_harness() -> None:
    """Say now that the harness is missing.

    Raises:
        InputError: lm-eval is not installed.
    """
    if find_spec("lm_eval") is None:
        raise InputError("general ability needs lm-eval: pip install 'ultraedit[eval]'")
    with isolated():
        try:
            import_module("lm_eval.models.huggingface")
        except ImportError as error:
            raise InputError(
                f"lm-eval cannot be used ({cause(error)}): pip install 'ultraedit[eval]'"
            ) from error


def task_manager(sources: Sequence[Source], folder: Path | None) -> Any:
    """The harness's index of tasks: of those in `folder` alone where that will do.

    Args:
        sources: What it has to know.
        folder: Of task files.
    """
    from lm_eval.tasks import TaskManager

    path = None if folder is None else str(folder)
    # The harness's own list is fourteen thousand files long.
    own = TaskManager(include_path=path, include_defaults=False)
    if all(source.is_local or source.name in own.all_subtasks for source in sources):
        return own
    return TaskManager(include_path=path)


def place_of(source: Source, manager: Any, folder: Path | None) -> str:
    """Where a task comes from, in words.

    Raises:
        InputError: it is not known.
    """
    if source.file is not None:
        return str(source.file)
    entry = manager.task_index.get(source.name)
    if entry is not None:
        path = entry.yaml_path
        if folder and path and Path(path).resolve().is_relative_to(folder.resolve()):
            return str(path)
        return OF_HARNESS
    if folder is not None and (unread := next(folder.rglob(f"{source.name}.yaml"), None)):
        raise InputError(f"task {source.name}: {unread} is no task file that lm-eval can read")
    if source.name in ready_made():
        if folder is not None:
            raise InputError(f"task {source.name}: {folder} holds no {source.name}.jsonl")
        raise InputError(
            f"task {source.name} needs its data: --data DIR, with {source.name}.jsonl in it"
        )
    known = {*manager.all_tasks, *ready_made()}
    close = get_close_matches(source.name, sorted(known), 3)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    raise InputError(f"there is no task {source.name}{hint}")


def load(source: Source, manager: Any, place: str, folder: Path | None) -> Mapping[str, Any]:
    """A task, or the tasks of a group.

    Raises:
        InputError: its data cannot be read, or the harness refuses it.
    """
    spec = source.name if source.file is None else task_config(source)
    try:
        loaded: Mapping[str, Any] = manager.load([spec])
    except OSError as error:
        # Of the hub's many errors most are OSErrors, and offline they name the data set.
        if place != OF_HARNESS:
            raise InputError(f"task {source.name} ({place}): {cause(error)}") from error
        lack = ""
        if source.name in ready_made():
            lack = f"; a local file would be {folder or 'DIR'}/{source.name}.jsonl with --data"
        raise InputError(
            f"task {source.name} of lm-eval needs a data set that cannot be had:"
            f" {cause(error)}{lack}"
        ) from error
    except Exception as error:
        raise InputError(
            f"task {source.name} ({place}) could not be loaded: {cause(error)}"
        ) from error
    if not loaded["tasks"]:
        raise InputError(f"task {source.name} ({place}) holds no tasks")
    return loaded
