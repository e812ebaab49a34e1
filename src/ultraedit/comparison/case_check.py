"""All cases of a comparison, read once before any run: will every question of them do?"""

from __future__ import annotations

from collections.abc import Iterable

from ultraedit.comparison.digest import CasesDigest
from ultraedit.data.faults import RecordError, located
from ultraedit.encoding.tokenise import Encoder
from ultraedit.errors import InputError
from ultraedit.evaluation.evaluate import questions
from ultraedit.methods.base import Method
from ultraedit.records import Case


class CaseCheck:
    """Takes cases one at a time, in constant memory.

    Args:
        file: Where they come from, for messages.
        encoder: As the runs will encode them.
        limit: Tokens that the model reads at most, where it says so.

    Attributes:
        digest: Over all of them; also counts them.
        without_subject: The number of the first one that names no subject; 0 for none.
    """

    def __init__(self, file: str, encoder: Encoder, limit: int | None) -> None:
        self.file, self.encoder, self.limit = file, encoder, limit
        self.digest = CasesDigest()
        self.without_subject = 0

    def add(self, case: Case) -> None:
        """Take one more case.

        Raises:
            InputError: the model could not read one of its questions.
        """
        self.digest.add(case)
        number = self.digest.count
        try:
            self._check_lengths(case)
        except InputError as error:
            raise located(RecordError(str(error)), self.file, number) from None
        if not case.edit.subject and not self.without_subject:
            self.without_subject = number

    def check_subjects(self, methods: Iterable[Method]) -> None:
        """Refuse methods that need a subject which is not there.

        Raises:
            InputError: naming record and method.
        """
        for method in methods:
            if method.needs_subject and self.without_subject:
                lack = RecordError(f"is missing; method {method.info.name} needs it", "subject")
                raise located(lack, self.file, self.without_subject)

    def allows(self, method: Method) -> bool:
        """Whether a method can run over these cases without anything more."""
        if method.info.needs_training:
            return False
        return not (method.needs_subject and self.without_subject)

    def _check_lengths(self, case: Case) -> None:
        for question in questions(case, 0, self.encoder):
            longest = max(len(text.ids) for text in question.texts)
            if self.limit is not None and longest > self.limit:
                raise InputError(
                    f"{question.kind} is {longest} tokens long; the model reads {self.limit} at"
                    " most"
                )
