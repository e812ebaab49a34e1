"""The editor: where a model, a method and their state live together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit import saved, storage
from ultraedit.bench import Bench
from ultraedit.encoding.subject import check_subject
from ultraedit.encoding.tokenise import Encoded, Encoder, Tokenization, chat_mode, ends_answers
from ultraedit.errors import InputError
from ultraedit.evaluation.evaluate import ANSWER_TOKENS, evaluate
from ultraedit.evaluation.report import Report
from ultraedit.history.pending import Pending
from ultraedit.history.undo import Undone
from ultraedit.methods.base import Method
from ultraedit.methods.registry import build, method_class
from ultraedit.models.batch_plan import plan_batch_tokens
from ultraedit.models.frozen import FrozenPlace, parse_place
from ultraedit.models.load import checkpoint_dtype, kept_name, load, local_folder, resolve
from ultraedit.models.memory import shapes_of
from ultraedit.models.presets import choose_modules
from ultraedit.models.target import targets
from ultraedit.records import Case, Edit, Turn
from ultraedit.turn import make_turn, refusing_full_memory


class Editor:
    """Edits a causal language model in place, turn by turn.

    Args:
        model: A transformers causal language model; put in evaluation mode.
        tokenizer: Its tokenizer.
        method: A name that `ultraedit.methods.registry.available` lists, or a `Method`.
        modules: `auto` for the method's own choice, or names of linear maps in the model.
        lr: The method's step, or `auto`.
        append_eos: Write end-of-sequence as one more target token; None for `ends_answers`.
        tokenization: `joint` or `published`; see `Encoder`.
        chat: In which forms an edit has to hold: `only` in the tokenizer's chat template, `off` for
            plain text, or `both`, the default where there is a template. Prompts are asked as plain
            text unless it is `only`.
        system: The system message in the template; None for the template's own choice.
        template: Further arguments of the template, as `{"enable_thinking": False}`.
        batch_tokens: Padded tokens of one pass; by default from the free memory.
        check_learned: Whether a turn ends by asking its edits again; a further pass through
            the edited blocks, without which `Turn.learned` is empty.
        journal: Whether `save` keeps a journal, for which turns are remembered until then.
        history: How far back edits can be undone: `full`, a number of turns, or `none`.
        author: Who makes the edits, for the journal; by default the user of this process.
        stored: The dtype that edited weights are rounded to and saved in, where the model
            computes in a wider one; the model's own by default.
        settings: Further settings of the method.

    Raises:
        InputError: an option that does not exist or does not fit.
        UnsupportedModelError: a module that cannot be edited, by name.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        method: str | Method = "auto",
        modules: str | Sequence[str] = "auto",
        lr: float | str = "auto",
        append_eos: bool | None = None,
        tokenization: Tokenization | None = None,
        chat: str | bool | None = None,
        system: str | None = None,
        template: Mapping[str, Any] | None = None,
        batch_tokens: int | None = None,
        check_learned: bool = True,
        journal: bool = True,
        history: str | int = "full",
        author: str | None = None,
        stored: torch.dtype | None = None,
        **settings: Any,
    ) -> None:
        self.chat = chat_mode(chat, tokenizer)

        if append_eos is None and self.chat != "both":
            append_eos = ends_answers(tokenizer, self.chat == "only")
        # Written in both forms, no answer ends: sentences of a chat model go on after it.
        encoder = Encoder(
            tokenizer, bool(append_eos), tokenization or "joint", self.chat == "only",
            system, dict(template or {}),
        )  # fmt: skip
        if isinstance(method, str):
            method = build(method, lr, settings)
        elif settings or lr != "auto":
            raise InputError("settings of a method that is already made cannot be given")
        names = list(targets(model, choose_modules(model, modules, method.modules)))
        model.eval()
        if batch_tokens is None:
            held = method.state_bytes(shapes_of(model, names))
            batch_tokens = plan_batch_tokens(model, names, held, stored)
        self.bench = Bench(
            model, encoder, names, batch_tokens, stored,
            also=replace(encoder, chat=True) if self.chat == "both" else None,
        )  # fmt: skip
        self.method = method
        self.bench.query = method.query
        # What routes sees every prompt whole.
        self.bench.passes.split &= method.info.changes_weights
        method.attach(self.bench)
        self.pending = Pending(
            author, storage.parse_history(history), initial=method.state_dict(), active=journal
        )
        self.check_learned = check_learned
        self._encoded: dict[Edit, Encoded] = {}  # what was looked ahead to
        self.turns = 0
        self.edits = 0
        self.run: dict[str, Any] | None = None
        self.base_name = str(model.name_or_path)
        self.source: Path | None = None
        self.read_only: str | None = None
        self.saved_to: set[Path] = set()
        self.frozen: FrozenPlace = "resident"
        self._is_unedited = False

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
        **options: Any,
    ) -> Editor:
        """An editor of a model that transformers can load.

        Args:
            model: Hub id, local folder, `demo`, or a folder that `save` wrote, which is
                then gone on with.
            dtype: float32, bfloat16 or float16; `auto` computes in the checkpoint's own, or in
                float32 on a CPU that is faster with it, and saves in the checkpoint's own.
            device: `auto`, or a torch device.
            device_map: Handed to transformers, in place of `device`; needs accelerate.
            frozen: How the blocks below the first edited one are held: `resident`, `int8`,
                `int4`, `cpu` or `disk`. None is `resident`, or as `save` recorded.
            options: As in `Editor(...)`.

        Raises:
            InputError: it could not be loaded, or its blocks cannot be held like that.
        """
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

    @property
    def model(self) -> PreTrainedModel:
        return self.bench.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.bench.tokenizer

    @property
    def modules(self) -> list[str]:
        return list(self.bench.targets)

    def edit(self, edits: Iterable[Edit]) -> Turn:
        """Write some facts at once: one turn.

        Nothing is changed if anything is wrong with any of the edits.

        Raises:
            InputError: no edits, or one that cannot be encoded; it is named.
            TurnRefusedError: the method's shift is not finite, or the device's memory is
                full; weights and state are as they were.
        """
        if self._is_unedited:
            raise InputError("inside unedited() the model cannot be edited")
        edits = tuple(edits)
        if not edits:
            raise InputError("a turn needs at least one edit")
        began = time.perf_counter()
        texts = [self._encode(edit, place) for place, edit in enumerate(edits, 1)]
        also = [self._encode_also(edit, place) for place, edit in enumerate(edits, 1)]
        made = make_turn(
            self.bench, self.method, edits, texts, [text for text in also if text],
            keep_shifts=self.pending.active, check_learned=self.check_learned,
        )  # fmt: skip
        taken = time.perf_counter() - began
        turn = Turn(self.turns, edits, made.learned, made.passes, taken, made.learned_also)
        self.turns += 1
        self.edits += len(edits)
        self.pending.add(
            turn,
            made.shifts,
            self.method.record() if self.pending.active else {},
            edits=self.edits,
            device=self.bench.device.type,
            run=self.run,
        )
        return turn

    def look_ahead(self, edits: Sequence[Edit], done: int = 0) -> None:
        """Read edits of the turns to come through the frozen blocks now, as many as fit.

        Args:
            edits: Of all these turns.
            done: How many of the first have had their turn: for the bits of a whole run.

        Raises:
            InputError: one of them cannot be encoded.
            TurnRefusedError: the device's memory is full.
        """
        texts = [self._encode(edit, place) for place, edit in enumerate(edits, 1)]
        with refusing_full_memory(self.bench):
            self.bench.look_ahead(texts)
        self.bench.drop(texts[:done])
        self._encoded = dict(zip(edits[done:], texts[done:], strict=True))

    def ask(self, prompt: str, max_new_tokens: int = ANSWER_TOKENS) -> str:
        """The model's free greedy answer, up to end-of-sequence or the end of a line."""
        prompt_ids = self.bench.encoder.prompt_ids(prompt)
        (answer,) = self.bench.answers([prompt_ids], max_new_tokens)
        return answer.text

    def check(self, edit: Edit, place: int = 1) -> None:
        """Say now what `edit` would refuse; `place` names an edit without an id.

        Raises:
            InputError: the edit cannot be encoded, is too long, or lacks its subject.
        """
        self._encode(edit, place)
        self._encode_also(edit, place)

    def evaluate(self, cases: Iterable[Case | Edit], **options: Any) -> Report:
        """Scores of cases now and before any edit; options as in `evaluation.evaluate`."""
        try:
            return evaluate(self.bench, cases, unedited=self.unedited, **options)
        finally:
            self.bench.forget()

    @contextmanager
    def unedited(self) -> Iterator[PreTrainedModel]:
        """The original model inside, for comparisons; the edited one after, bit for bit."""
        if self._is_unedited:
            yield self.model
            return
        with ExitStack() as stack:
            stack.enter_context(self.bench.unedited())
            stack.enter_context(self.method.bypassed())
            self._is_unedited = True
            try:
                yield self.model
            finally:
                self._is_unedited = False

    def settings(self) -> dict[str, Any]:
        """What an editor needs to be told to go on as this one would."""
        return saved.settings(self)

    def save(
        self, folder: str | os.PathLike[str], *, journal: bool | None = None, locked: bool = False
    ) -> None:
        """Write the edited model to `folder`: plain `from_pretrained` reads it.

        Writing again into the same folder rewrites only the edited modules and the
        editor's state; the folder is readable at any moment.

        Args:
            folder: A new or empty folder, or one that this editor wrote or was loaded from.
            journal: Whether to keep a journal there; by default as the editor was made.
            locked: Whether the caller already holds `storage.lock(folder)`.

        Raises:
            InputError: the folder holds something else, or another editor's edits.
            UltraEditError: writing failed, or another process is at it; what was there
                before still is.
        """
        if self._is_unedited:
            raise InputError("inside unedited() the model cannot be saved")
        saved.save(self, Path(folder), self.pending.active if journal is None else journal, locked)

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
        **place: Any,
    ) -> Editor:
        """The editor that `save` wrote, with its weights, masters, statistics and settings.

        Torch's thread count becomes the recorded one: the same turns give the same bits
        only with it.

        Args:
            folder: What `save` wrote.
            options: As in `Editor(...)`; those that would change the edits must be as
                recorded.
            place: dtype, device and so on, as in `from_pretrained`. Quantised blocks must be
                as recorded; where they are kept may change.

        Raises:
            InputError: the folder is no edited model, is damaged, or an option differs
                from what the model was edited with.
        """
        return saved.load(cls, Path(folder), options or {}, place)

    def _encode(self, edit: Edit, place: int) -> Encoded:
        if not isinstance(edit, Edit):
            raise InputError(f"edit {place} is a {type(edit).__name__}, not an Edit")
        if self.read_only:
            raise InputError(self.read_only)
        if edit in self._encoded:
            return self._encoded[edit]
        what = f"edit {edit.id or place}"
        try:
            if self.method.needs_subject:
                check_subject(self.bench.encoder, edit, self.method.info.name)
            text = self.bench.encoder.encode(edit.prompt, edit.answers[0])
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
        self.bench.check_length(text, what)
        return text

    def _encode_also(self, edit: Edit, place: int) -> Encoded | None:
        """The edit in the other form that it has to hold in, if there is one."""
        if self.bench.also is None:
            return None
        what = f"edit {edit.id or place} in the chat template"
        try:
            text = self.bench.also.encode(edit.prompt, edit.answers[0])
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
        self.bench.check_length(text, what)
        return text
