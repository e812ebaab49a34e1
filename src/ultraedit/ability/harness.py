"""lm-eval with its tasks loaded once, to be asked of one model after another."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit.ability.harness_model import watched_model, watched_prompts
from ultraedit.ability.isolation import isolated
from ultraedit.ability.loading import load, place_of, require_harness, task_manager
from ultraedit.ability.report import Score
from ultraedit.ability.scores import scores
from ultraedit.ability.sources import find
from ultraedit.data.faults import cause
from ultraedit.errors import InputError, UltraEditError
from ultraedit.progress import Progress, no_progress

# What the harness itself seeds with, so that its figures are met.
RANDOM_SEED, OTHER_SEED = 0, 1234
BATCH_SIZE = 8


class Harness:
    """Loaded tasks.

    Args:
        loaded: What the harness's task manager loaded.
        members: Task as asked for -> the tasks it stands for; one, itself, or a group's.
        sources: Task as asked for -> where it came from, in words.
        shots: Solved examples in front of every document; None for each task's own number.

    Attributes:
        shots: Task -> that number.
    """

    def __init__(
        self,
        loaded: Mapping[str, Any],
        members: Mapping[str, Sequence[str]],
        sources: Mapping[str, str],
        shots: int | None = None,
    ) -> None:
        self._loaded = loaded
        self.members = members
        self.sources = sources
        self.shots: dict[str, int] = {}
        for name, task in loaded["tasks"].items():
            own = task.get_config("num_fewshot")
            # Who writes a zero into a task means it; the harness sees it so too.
            count = (own or 0) if shots is None or own == 0 else shots
            task.set_config(key="num_fewshot", value=count)
            self.shots[name] = count

    def score(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | str = BATCH_SIZE,
        limit: int | None = None,
        chat: bool = False,
        progress: Progress = no_progress,
    ) -> list[Score]:
        """Ask a model every document of every task.

        Args:
            model: As it stands, on the device where it is.
            tokenizer: Its tokenizer; copied, because the harness may give it a padding token.
            batch_size: Texts in one pass, or `auto` for the most that fit a GPU's memory.
            limit: The first so many documents of each task.
            chat: Wrap prompts in the tokenizer's chat template.
            progress: Told what is done, and of how much.

        Returns:
            Every metric of every task and group.

        Raises:
            UltraEditError: the harness could not do it; its own reason is given.
        """
        check_batch_size(batch_size, model)
        if chat and not tokenizer.chat_template:
            raise InputError("the model's tokenizer has no chat template")
        with isolated():
            self._seed()
            from lm_eval.evaluator import evaluate

            try:
                asked = watched_model(model, copy.deepcopy(tokenizer), batch_size, progress)
                with watched_prompts(progress):
                    results = evaluate(
                        lm=asked,
                        task_dict=self._loaded,
                        limit=limit,
                        bootstrap_iters=0,
                        log_samples=True,
                        apply_chat_template=chat,
                        fewshot_as_multiturn=True,
                    )
            except Exception as error:
                raise UltraEditError(f"the harness failed: {cause(error)}") from error
            return scores(results, self._aggregations(), self.members)

    def _seed(self) -> None:
        """As at the start of a run of the harness, so that all models are asked the same."""
        random.seed(RANDOM_SEED)
        np.random.seed(OTHER_SEED)
        torch.manual_seed(OTHER_SEED)
        for task in self._loaded["tasks"].values():
            task.set_fewshot_seed(seed=OTHER_SEED)

    def _aggregations(self) -> dict[str, set[str]]:
        """Task -> its metrics whose value is the mean over documents."""
        from lm_eval.api.metrics import mean

        return {
            name: {metric for metric, by in task.aggregation().items() if by is mean}
            for name, task in self._loaded["tasks"].items()
        }


def open_harness(
    tasks: Sequence[str],
    *,
    data: str | Path | None = None,
    shots: int | None = None,
    progress: Progress = no_progress,
) -> Harness:
    """Load tasks.

    A ready-made task whose `NAME.jsonl` is in `data` reads that file. Of the other names, task
    files (YAML) in `data` go before the harness's own tasks, which load their data from the hub.

    Args:
        tasks: Names of tasks, groups or tags.
        data: A folder with data files, task files or both.
        shots: Solved examples in front of every document; None for each task's own number.
        progress: Told what is done, and of how much.

    Raises:
        InputError: lm-eval is not installed, a task is not known, or its data cannot be read.
    """
    require_harness()
    folder = None if data is None else Path(data)
    sources = find(tasks, folder)
    with isolated():
        # Some tasks shuffle their documents as they load them.
        random.seed(RANDOM_SEED)
        np.random.seed(OTHER_SEED)
        with progress("reading the list of tasks", None):
            manager = task_manager(sources, folder)
        loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
        members: dict[str, list[str]] = {}
        places: dict[str, str] = {}
        with progress("loading tasks", len(sources)) as advance:
            for source in sources:
                places[source.name] = place_of(source, manager, folder)
                one = load(source, manager, places[source.name], folder)
                again = loaded["tasks"].keys() & one["tasks"].keys()
                if again:
                    raise InputError(
                        f"task {min(again)} is asked for twice, once as part of {source.name}"
                    )
                members[source.name] = list(one["tasks"])
                for part, held in loaded.items():
                    held.update(one.get(part) or {})
                advance(1)
        return Harness(loaded, members, places, shots)


def check_batch_size(batch_size: int | str, model: PreTrainedModel) -> None:
    """Refuse what the harness would stumble over.

    Raises:
        InputError: neither a positive number nor `auto`, or `auto` without a GPU.
    """
    if batch_size == "auto":
        # It tries sizes until memory runs out, which a GPU survives and a CPU does not.
        if model.device.type != "cuda":
            raise InputError("batch size auto needs a GPU; name a number, as in --batch-size 8")
    elif isinstance(batch_size, str) or batch_size < 1:
        raise InputError(f"batch size {batch_size} is neither a positive number nor auto")
