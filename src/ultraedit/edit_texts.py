"""Edits as token ids, in each form that they have to hold in."""

from __future__ import annotations

from collections.abc import Sequence

from ultraedit.encoding.subject import check_subject
from ultraedit.encoding.tokenise import Encoded, Encoder
from ultraedit.errors import InputError
from ultraedit.methods.base import Method
from ultraedit.records import Edit
from ultraedit.workbench import ModelWorkbench


class EditTexts:
    """Encodes edits, and refuses those that the method or the model cannot take.

    Args:
        workbench: Holds the encoders and knows the longest text.
        method: Says whether an edit must name its subject.

    Attributes:
        refused: Why no edit can be taken; None if they can.
    """

    def __init__(self, workbench: ModelWorkbench, method: Method) -> None:
        self.refused: str | None = None
        self._workbench = workbench
        self._method = method
        self._kept: dict[Edit, Encoded] = {}

    def keep(self, edits: Sequence[Edit], texts: Sequence[Encoded]) -> None:
        """Keep texts of turns to come, in place of those that were kept before."""
        self._kept = dict(zip(edits, texts, strict=True))

    def of(self, edits: Sequence[Edit], first: int = 1) -> list[Encoded]:
        """The edits in the form that prompts are asked in.

        Args:
            edits: Any number.
            first: Place of the first one, which names an edit without an id.

        Raises:
            InputError: one is no edit, cannot be encoded, is too long, or lacks its subject.
        """
        return [self._text(edit, place) for place, edit in enumerate(edits, first)]

    def also_of(self, edits: Sequence[Edit], first: int = 1) -> list[Encoded]:
        """The edits in the other form that they have to hold in; none if there is no such form.

        Raises:
            InputError: as in `of`.
        """
        encoder = self._workbench.also
        if encoder is None:
            return []
        return [
            self._encoded(edit, encoder, f"{_name(edit, place)} in the chat template")
            for place, edit in enumerate(edits, first)
        ]

    def _text(self, edit: Edit, place: int) -> Encoded:
        if not isinstance(edit, Edit):
            raise InputError(f"edit {place} is a {type(edit).__name__}, not an Edit")
        if self.refused:
            raise InputError(self.refused)
        if edit in self._kept:
            return self._kept[edit]
        encoder, what = self._workbench.encoder, _name(edit, place)
        if self._method.needs_subject:
            try:
                check_subject(encoder, edit, self._method.info.name)
            except InputError as error:
                raise InputError(f"{what}: {error}") from None
        return self._encoded(edit, encoder, what)

    def _encoded(self, edit: Edit, encoder: Encoder, what: str) -> Encoded:
        try:
            text = encoder.encode(edit.prompt, edit.answers[0])
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
        self._workbench.check_length(text, what)
        return text


def _name(edit: Edit, place: int) -> str:
    return f"edit {edit.id or place}"
