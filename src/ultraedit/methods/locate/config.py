"""Settings that locate-then-edit methods share."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ultraedit.errors import InputError
from ultraedit.methods.locate.covariance import Source
from ultraedit.methods.locate.value import Search
from ultraedit.methods.settings import check_positive, is_count

FACT_TOKENS = ("subject_last", "last")


@dataclass(frozen=True)
class LocateConfig:
    """How a value is sought, where a subject is read, and what keys are in use.

    Attributes:
        lr: Of the search for a value, by Adam; `auto` is 0.5, or more where hidden states are
            long, see `Search`.
        steps: Of the same.
        clamp: The value moves at most so many times the length of what is there.
        decay: Of the search's loss term `decay * |change| / |value|`.
        kl: Of its loss term KL(after || before) on "{subject} is a".
        enough: The loss at which an edit's search ends.
        fact_token: Where a fact is read and written: `subject_last`, its subject's last token, or
            `last`, the prompt's.
        prefixes: Texts, drawn by the model, that a prompt is read after; beside none.
        samples: Tokens of text that the covariance of keys is measured over; `auto` is 32 for
            every feature, at most 2^17.
        text: A text file to measure it over instead of what the model says by itself.
    """

    lr: float | str = "auto"
    steps: int = 20
    clamp: float = 4.0
    decay: float = 0.5
    kl: float = 0.0625
    enough: float = 0.05
    fact_token: str = "subject_last"
    prefixes: int = 20
    samples: int | str = "auto"
    text: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_positive("lr", self.lr, auto=True)
        for name in ("clamp", "enough"):
            check_positive(name, getattr(self, name))
        for name in ("decay", "kl"):
            if getattr(self, name) != 0:
                check_positive(name, getattr(self, name))
        if self.fact_token not in FACT_TOKENS:
            raise InputError(f"fact_token is none of {', '.join(FACT_TOKENS)}: {self.fact_token!r}")
        if not is_count(self.steps):
            raise InputError(f"steps must be at least 1, not {self.steps!r}")
        if self.prefixes != 0 and not is_count(self.prefixes):
            raise InputError(f"prefixes must be a number, not {self.prefixes!r}")
        if self.samples != "auto" and not is_count(self.samples):
            raise InputError(f"samples must be auto or at least 1, not {self.samples!r}")
        if isinstance(self.text, os.PathLike):
            object.__setattr__(self, "text", os.fspath(self.text))
        if self.text is not None and not isinstance(self.text, str):
            raise InputError(f"text must be the path of a file, not {self.text!r}")

    @property
    def search(self) -> Search:
        lr = None if self.lr == "auto" else float(self.lr)
        return Search(self.steps, lr, self.clamp, self.decay, self.kl, self.enough)

    @property
    def source(self) -> Source:
        return Source(None if self.text is None else str(self.text), self.samples)
