"""Which facts two states of a model answer differently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultraedit import saved, storage
from ultraedit.editor import Editor
from ultraedit.encoding.tokenise import Encoder
from ultraedit.errors import InputError
from ultraedit.history.answers import Answer, answers
from ultraedit.history.effect import edits_in_effect
from ultraedit.history.rebuild import rebuild
from ultraedit.models.batch_plan import plan_batch_tokens
from ultraedit.models.load import load, resolve
from ultraedit.storage import EditRecord
from ultraedit.workbench import ModelWorkbench


@dataclass(frozen=True)
class ModelVersion:
    """A model, or an edited model after one of its turns.

    Attributes:
        name: As the caller wrote it.
        folder: Of the model, or its hub id.
        turn: The entry of the journal; None for the model as it is.
    """

    name: str
    folder: str
    turn: int | None

    @staticmethod
    def parse(name: str) -> ModelVersion:
        """`MODEL`, `OUT` or `OUT@TURN`.

        Raises:
            InputError: TURN is not a number, or MODEL is not there.
        """
        if "@" in name and not Path(name).exists():
            folder, turn = name.rsplit("@", 1)
            if not storage.is_edited_model(folder):
                raise InputError(f"{folder} is no edited model; only these have turns")
            if not turn.isdecimal():
                raise InputError(f"{name}: a turn is a number, not {turn!r}")
            return ModelVersion(name, folder, int(turn))
        return ModelVersion(name, resolve(name), None)

    @property
    def is_edited(self) -> bool:
        return storage.is_edited_model(self.folder)

    def edits(self) -> list[EditRecord]:
        """The edits in effect, oldest first; none where no journal says so."""
        return edits_in_effect(Path(self.folder), self.turn) if self.is_edited else []

    def open(self, chat: bool, **place: Any) -> ModelWorkbench:
        """The model in that state."""
        if self.is_edited:
            editor = Editor.load(Path(self.folder), **place)
            if self.turn is not None:
                folder = Path(self.folder)
                saved.restore(editor, rebuild(folder, self.turn), folder, self.turn)
            return editor.workbench
        model, tokenizer = load(self.folder, **place)
        return ModelWorkbench(
            model, Encoder(tokenizer, chat=chat), [], plan_batch_tokens(model, [])
        )


@dataclass(frozen=True)
class Difference:
    """A fact and what the two states say to it."""

    edit: EditRecord
    first: Answer
    second: Answer

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.edit.id,
            "prompt": self.edit.prompt,
            "target": self.edit.target,
            "a": self.first.text,
            "b": self.second.text,
            "learned_a": self.first.learned,
            "learned_b": self.second.learned,
        }


def facts_of(first: ModelVersion, second: ModelVersion) -> list[EditRecord]:
    """Every fact that one of the two states was edited with, once.

    Raises:
        InputError: neither has a journal with edits.
    """
    found = {(record.prompt, record.target): record for record in first.edits() + second.edits()}
    if not found:
        raise InputError(
            f"neither {first.name} nor {second.name} has edits in a journal; name a file of facts"
        )
    return list(found.values())


def difference(
    first: ModelVersion, second: ModelVersion, facts: Iterable[EditRecord], **place: Any
) -> list[Difference]:
    """Ask both states, one after the other, and keep what they answer differently.

    Args:
        first: Asked first.
        second: Asked next; only one of them is in memory at a time.
        facts: What to ask.
        place: dtype, device and device_map, as in `Editor.from_pretrained`.
    """
    facts = list(facts)
    said = []
    chat = any(
        storage.read_settings(Path(state.folder))["chat"] in (True, "only")
        for state in (first, second)
        if state.is_edited
    )
    for state in (first, second):
        workbench = state.open(chat, **place)
        said.append(answers(workbench, facts))
        del workbench
    return [
        Difference(edit, one, other)
        for edit, one, other in zip(facts, *said, strict=True)
        if one != other
    ]
