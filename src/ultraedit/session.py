"""A model, a method and their state, in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit import storage
from ultraedit.edit_texts import EditTexts
from ultraedit.encoding.tokenise import Encoder, Tokenization, chat_mode, ends_answers
from ultraedit.errors import InputError
from ultraedit.evaluation.evaluate import ANSWER_TOKENS, evaluate
from ultraedit.evaluation.report import Report
from ultraedit.history.pending import Pending
from ultraedit.linalg.threads import threads
from ultraedit.methods.base import Method
from ultraedit.methods.registry import build, is_registered
from ultraedit.models.batch_plan import TURN, plan_batch_tokens
from ultraedit.models.frozen import FrozenPlace
from ultraedit.models.memory import shapes_of
from ultraedit.models.presets import choose_modules
from ultraedit.models.target import targets
from ultraedit.records import Case, Edit, Turn
from ultraedit.storage.constants import Constants, separate, together
from ultraedit.storage.trained import Trained
from ultraedit.turn import make_turn, refusing_full_memory
from ultraedit.workbench import ModelWorkbench


class Session:
    """Edits a causal language model in place, turn by turn, in memory.

    Threads may share it: who asks while another thread edits waits for the end of the turn, and
    sees all of it. Whoever calls `model` directly holds `lock` meanwhile.

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
        history: How far back edits can be undone: `full`, a number of turns, or `none`. The
            journal names every edit all the same.
        author: Who makes the edits, for the journal; by default the user of this process.
        trained: The file that `train` wrote, for a method that is trained before it edits.
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
        history: str | int = "full",
        author: str | None = None,
        trained: str | os.PathLike[str] | None = None,
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
            cost = method.cost(shapes_of(model, names), TURN)
            batch_tokens = plan_batch_tokens(model, names, cost, stored)
        self.workbench = ModelWorkbench(
            model, encoder, names, batch_tokens, stored,
            also=replace(encoder, chat=True) if self.chat == "both" else None,
        )  # fmt: skip
        self.method = method
        self.replayable = is_registered(method)
        self.workbench.query = method.query
        # What routes sees every prompt whole.
        self.workbench.passes.split &= method.info.changes_weights
        method.attach(self.workbench)
        self.pending = Pending(author, storage.parse_history(history), initial=method.state_dict())
        self.check_learned = check_learned
        self.constants = Constants()
        self._deferred: Callable[[], tuple[Mapping[str, Tensor], Constants]] | None = None
        # Other numbers of threads round in other ways; turns go on with what the first one had.
        self.threads = torch.get_num_threads()
        self.lock = RLock()
        self._texts = EditTexts(self.workbench, method)
        self.trained: str | None = None
        if trained is not None:
            self._take(Trained.read(Path(trained)))
        self.turns = 0
        self.edits = 0
        self.run: dict[str, Any] | None = None
        self.base_name = str(model.name_or_path)
        self.source: Path | None = None
        self.saved_to: set[Path] = set()
        self.frozen: FrozenPlace = "resident"
        self._is_unedited = False

    @property
    def model(self) -> PreTrainedModel:
        return self.workbench.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.workbench.tokenizer

    @property
    def modules(self) -> list[str]:
        return list(self.workbench.targets)

    @property
    def read_only(self) -> str | None:
        """Why the model cannot be edited; None if it can."""
        return self._texts.refused

    @read_only.setter
    def read_only(self, reason: str | None) -> None:
        self._texts.refused = reason

    def edit(self, edits: Iterable[Edit], *, note: Mapping[str, Any] | None = None) -> Turn:
        """Write some facts at once: one turn.

        Nothing is changed if anything is wrong with any of the edits.

        Args:
            edits: At least one.
            note: Anything that JSON can hold, to be kept with the turn in the journal.

        Raises:
            InputError: no edits, or one that cannot be encoded; it is named.
            TurnRefusedError: the method's shift is not finite, or the device's memory is
                full; weights and state are as they were.
        """
        edits = tuple(edits)
        with self.lock, threads(self.threads):
            return self._edit(edits, note)

    def _edit(self, edits: tuple[Edit, ...], note: Mapping[str, Any] | None) -> Turn:
        if self._is_unedited:
            raise InputError("inside unedited() the model cannot be edited")
        if not edits:
            raise InputError("a turn needs at least one edit")
        name = self.method.info.name
        if self.method.info.needs_training and self.trained is None:
            raise InputError(f"method {name} has to be trained first: `ultraedit train {name}`")
        began = time.perf_counter()
        texts, also = self._texts.of(edits), self._texts.also_of(edits)
        self.restore_state()
        made = make_turn(
            self.workbench, self.method, edits, texts, also,
            keep_shifts=self.keeps_shifts, check_learned=self.check_learned,
        )  # fmt: skip
        taken = time.perf_counter() - began
        turn = Turn(self.turns, edits, made.learned, made.passes, taken, made.learned_also)
        self.turns += 1
        self.edits += len(edits)
        self.pending.add(
            turn,
            made.shifts,
            self.without_constants(self.method.record()) if self.keeps_shifts else {},
            edits=self.edits,
            device=self.workbench.device.type,
            run=self.run,
            note=note,
        )
        return turn

    def train(self, cases: Iterable[Case | Edit]) -> Trained:
        """Train the method, before its first turn.

        The result is written with the edits. To use it for other edits of the same model, write it
        to a file, and name that as `trained`.

        Args:
            cases: Edits with their probes, other than those that will be written.

        Raises:
            InputError: the method needs no training, has made a turn already, or cannot be trained
                with these cases.
        """
        whole = [Case(one) if isinstance(one, Edit) else one for one in cases]
        with self.lock, threads(self.threads), refusing_full_memory(self.workbench):
            if self.turns:
                raise InputError("a method is trained before its first turn")
            self.method.train(self.workbench, whole)
            self.workbench.forget()
            trained = self._as_trained()
            self._take(trained)
        return trained

    def _take(self, trained: Trained) -> None:
        """Begin with what the method was trained to."""
        trained.check_fits(self._as_trained())
        self.method.load_state_dict(trained.state)
        self.trained = trained.digest
        self.pending.initial = self.without_constants(self.method.state_dict())

    def _as_trained(self) -> Trained:
        """The method's state, and what it belongs to."""
        shapes = {name: (target.d, target.e) for name, target in self.workbench.targets.items()}
        return Trained.of(
            self.method.info.name, self.method.settings, shapes, self.method.state_dict()
        )

    @property
    def keeps_shifts(self) -> bool:
        """Whether the shifts of a turn are needed after it."""
        return self.pending.active and self.pending.keep != 0

    def defer_state(self, source: Callable[[], tuple[Mapping[str, Tensor], Constants]]) -> None:
        """Read the method's state from `source` as soon as a turn or a save needs it."""
        self._deferred = source

    def restore_state(self) -> None:
        """Read the method's state now, if that was deferred.

        Raises:
            InputError: it is damaged, or not there any more.
        """
        if self._deferred is not None:
            self.load_state(*self._deferred())

    def load_state(self, state: Mapping[str, Tensor], constants: Constants) -> None:
        """Let the method go on from a state; `state` lacks its constants."""
        self.method.load_state_dict(together(state, constants))
        self.constants, self._deferred = constants, None

    def without_constants(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of the method without its constants, which are in `constants` from then on."""
        rest, constants = separate(state, self.method.is_constant, self.constants)
        if constants.tensors:
            self.constants = constants
        return rest

    def look_ahead(self, edits: Sequence[Edit], done: int = 0) -> None:
        """Read edits of the turns to come through the frozen blocks now, as many as fit.

        Args:
            edits: Of all these turns.
            done: How many of the first have had their turn: for the bits of a whole run.

        Raises:
            InputError: one of them cannot be encoded.
            TurnRefusedError: the device's memory is full.
        """
        texts = self._texts.of(edits)
        with self.lock, threads(self.threads), refusing_full_memory(self.workbench):
            self.workbench.look_ahead(texts)
            self.workbench.drop(texts[:done])
            self._texts.keep(edits[done:], texts[done:])

    def ask(self, prompt: str, max_new_tokens: int = ANSWER_TOKENS) -> str:
        """The model's free greedy answer, up to end-of-sequence or the end of a line."""
        prompt_ids = self.workbench.encoder.prompt_ids(prompt)
        with self.lock:
            (answer,) = self.workbench.answers([prompt_ids], max_new_tokens)
        return answer.text

    def check(self, edit: Edit, place: int = 1) -> None:
        """Say now what `edit` would refuse; `place` names an edit without an id.

        Raises:
            InputError: the edit cannot be encoded, is too long, or lacks its subject.
        """
        self._texts.of([edit], place)
        self._texts.also_of([edit], place)

    def evaluate(self, cases: Iterable[Case | Edit], **options: Any) -> Report:
        """Scores of cases now and before any edit; options as in `evaluation.evaluate`."""
        with self.lock:
            try:
                return evaluate(self.workbench, cases, unedited=self.unedited, **options)
            finally:
                self.workbench.forget()

    @contextmanager
    def unedited(self) -> Iterator[PreTrainedModel]:
        """The original model inside, for comparisons; the edited one after, bit for bit."""
        with ExitStack() as stack:
            stack.enter_context(self.lock)
            if self._is_unedited:
                yield self.model
                return
            stack.enter_context(self.workbench.unedited())
            stack.enter_context(self.method.bypassed())
            self._is_unedited = True
            try:
                yield self.model
            finally:
                self._is_unedited = False
