"""The editor: a session that is loaded, saved and taken back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit import saved, storage
from ultraedit.errors import InputError
from ultraedit.history.undo import Undone
from ultraedit.methods.registry import method_class
from ultraedit.models.frozen import parse_place
from ultraedit.models.load import checkpoint_dtype, kept_name, load, local_folder, resolve
from ultraedit.models.presets import choose_modules
from ultraedit.session import Session


class Editor(Session):
    """A session that is loaded, saved, and taken back; its constructor is that of `Session`."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        device_map: str | dict[str, Any] | None = None,
        frozen: str | None = None,
        trust_remote_code: bool = False,
        gguf_file: str | None = None,
        **options: Any,
    ) -> Editor:
        """An editor of a model that transformers can load.

        Args:
            model: Hub id, local folder, `.gguf` file, `demo`, or a folder that `save` wrote, whose
                edits are then continued.
            dtype: float32, bfloat16 or float16; `auto` computes in the checkpoint's own, or in
                float32 on a CPU that is faster with it, and saves in the checkpoint's own.
            device: `auto`, or a torch device.
            device_map: Handed to transformers, in place of `device`; needs accelerate.
            frozen: How the blocks below the first edited one are held: `resident`, `int8`,
                `int4`, `cpu` or `disk`. None is `resident`, or as `save` recorded.
            gguf_file: The name of a GGUF file in the folder `model`.
            options: As in `Editor(...)`.

        Raises:
            InputError: it could not be loaded, or its blocks cannot be held like that.
        """
        if gguf_file is not None:
            model = Path(model) / gguf_file
        source = resolve(model)
        place: dict[str, Any] = {
            "dtype": dtype, "device": device, "device_map": device_map, "frozen": frozen,
            "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        if storage.is_edited_model(source):
            return cls.load(source, options=options, **place)
        method, modules = options.get("method", "auto"), options.get("modules", "auto")
        kind = method_class(method) if isinstance(method, str) else method
        loaded, tokenizer = load(
            model, modules=lambda bare: choose_modules(bare, modules, kind.modules), **place
        )
        stored = None
        if dtype == "auto":
            stored = checkpoint_dtype(model, trust_remote_code=trust_remote_code)
        editor = cls(loaded, tokenizer, stored=stored, **options)
        editor.frozen = parse_place(frozen)
        editor.source = (folder := local_folder(model)) and folder.resolve()
        editor.base_name = kept_name(model)
        return editor

    def settings(self) -> dict[str, Any]:
        """The options with which an editor continues as this one would."""
        return saved.settings(self)

    def save(self, folder: str | os.PathLike[str], *, locked: bool = False) -> None:
        """Write the edited model to `folder`: plain `from_pretrained` reads it.

        Writing again into the same folder rewrites only the edited modules and the
        editor's state; the folder is readable at any moment.

        Args:
            folder: A new or empty folder, or one that this editor wrote or was loaded from.
            locked: Whether the caller already holds `storage.lock(folder)`.

        Raises:
            InputError: the folder holds something else, or another editor's edits.
            UltraEditError: writing failed, or another process is at it; what was there
                before still is.
        """
        with self.lock:
            if self._is_unedited:
                raise InputError("inside unedited() the model cannot be saved")
            saved.save(self, Path(folder), locked)

    def undo(
        self, *, to: int | None = None, edit: str | None = None, turn: int | None = None
    ) -> Undone:
        """Take edits back, here and in the folder the model was last saved to.

        Args:
            to: The entry of the journal after which things were as they should be; 0 for
                the unedited model. Weights and statistics come back bit for bit.
            edit: The id of one edit instead, whose part is subtracted.
            turn: The entry of that edit's turn, where its id was used more than once.

        Raises:
            InputError: there are edits that are not saved, or what is asked for is not in
                the journal.
        """
        with self.lock:
            if self._is_unedited:
                raise InputError("inside unedited() nothing can be undone")
            if (to is None) == (edit is None):
                raise InputError("undo takes either a turn to go back to or an edit")
            return saved.undo(self, to, edit, turn)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        options: Mapping[str, Any] | None = None,
        loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
        **place: Any,
    ) -> Editor:
        """The editor that `save` wrote, with its weights, masters, statistics and settings.

        Turns are made with the recorded number of threads: the same turns give the same bits only
        with it.

        Args:
            folder: What `save` wrote.
            options: As in `Editor(...)`; those that would change the edits must be as
                recorded.
            loaded: The model and tokenizer that were edited, if they are in memory already; the
                edited weights are put into this model.
            place: dtype, device and so on, as in `from_pretrained`. Quantised blocks must be
                as recorded; where they are kept may change.

        Raises:
            InputError: the folder is no edited model, is damaged, or an option differs
                from what the model was edited with.
        """
        return saved.load(cls, Path(folder), options or {}, place, loaded)
