"""A model and what it was before editing, for commands that compare the two."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from ultraedit import storage
from ultraedit.editor import Editor
from ultraedit.encoding.tokenise import Encoder
from ultraedit.errors import InputError
from ultraedit.models.batch_plan import plan_batch_tokens
from ultraedit.models.load import load, resolve
from ultraedit.workbench import ModelWorkbench


@dataclass(frozen=True)
class ModelWithBase:
    """The model to judge and a way to ask the model it was.

    Attributes:
        workbench: Over the model to judge.
        unedited: A context in which the workbench answers as before editing; None where
            nothing is known of that.
        base: Where the unedited answers come from, for the report.
        routes: Whether each text is answered by the weights or by a side memory.
    """

    workbench: ModelWorkbench
    unedited: Callable[[], AbstractContextManager[object]] | None
    base: str | None
    routes: bool = False


def open_with_base(
    model: str, base: str | None, *, chat: bool = False, **place: Any
) -> ModelWithBase:
    """Load `model`, and `base` beside it if given; an edited model carries its own.

    Raises:
        InputError: one cannot be loaded, or their vocabularies differ.
    """
    routes = False
    if storage.is_edited_model(resolve(model)):
        editor = Editor.from_pretrained(model, **place)
        workbench, tokenizer = editor.workbench, editor.tokenizer
        if chat:
            workbench.encoder = replace(workbench.encoder, chat=True)
        routes = not editor.method.info.changes_weights
        if base is None:
            return ModelWithBase(workbench, editor.unedited, model, routes)
    else:
        loaded, tokenizer = load(model, **place)
        workbench = ModelWorkbench(
            loaded, Encoder(tokenizer, chat=chat), [], plan_batch_tokens(loaded, [])
        )
        if base is None:
            return ModelWithBase(workbench, None, None)
    other, other_tokenizer = load(base, **place)
    if other_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(f"{model} and {base} have different tokenizers")
    return ModelWithBase(workbench, lambda: workbench.standing_in(other), base, routes)
