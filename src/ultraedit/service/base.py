"""The model that a server starts from, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit.editor import Editor
from ultraedit.forward.generate import end_tokens
from ultraedit.models.load import checkpoint_dtype, kept_name, load, local_folder
from ultraedit.models.sharing import sharing


@dataclass(frozen=True, eq=False)
class Base:
    """A model that is never edited itself: editors get copies that share what they do not edit.

    Attributes:
        name: By which it is asked for.
        model: Nothing is hooked into it.
        tokenizer: Its own.
        source: Its folder, where it has one on this machine.
        kept_name: What edited models remember it by.
        stored: The dtype that edited weights are saved in.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Path | None
    kept_name: str
    stored: torch.dtype | None

    @staticmethod
    def load(model: str, name: str | None = None, **place: Any) -> Base:
        """Read a model.

        Args:
            model: As `Editor.from_pretrained` takes it.
            name: By which it will be asked for; by default the last part of `model`.
            place: `dtype` and `device`, as there.

        Raises:
            InputError: it cannot be loaded.
        """
        loaded, tokenizer = load(model, **place)
        folder = local_folder(model)
        automatic = place.get("dtype", "auto") == "auto"
        return Base(
            name or Path(model).name.removesuffix(".gguf") or model,
            loaded,
            tokenizer,
            folder and folder.resolve(),
            kept_name(model),
            checkpoint_dtype(model) if automatic else None,
        )

    def running(self) -> PreTrainedModel:
        """The same weights, to be run and hooked into."""
        return sharing(self.model)

    def editor(self, modules: list[str], **options: Any) -> Editor:
        """An editor without edits, over copies of the named modules' weights.

        Raises:
            InputError: an option does not fit.
        """
        clone = sharing(self.model, modules)
        editor = Editor(clone, self.tokenizer, modules=modules, stored=self.stored, **options)
        editor.source, editor.base_name = self.source, self.kept_name
        return editor

    def edited(self, out: Path, modules: list[str], **options: Any) -> Editor:
        """The editor that was saved to a folder.

        Raises:
            InputError: the folder is damaged, or was edited with other options.
        """
        clone = sharing(self.model, modules)
        dtype = str(clone.dtype).removeprefix("torch.")
        return Editor.load(out, options=options, loaded=(clone, self.tokenizer), dtype=dtype)

    @property
    def stops(self) -> set[int]:
        """Tokens that end an answer."""
        return end_tokens(self.tokenizer, self.model)
