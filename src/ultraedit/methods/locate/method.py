"""What ROME and MEMIT are both: methods that know a model's keys, and keep nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ultraedit.errors import TurnRefusedError
from ultraedit.methods.base import Method, Workbench
from ultraedit.methods.locate.config import LocateConfig
from ultraedit.methods.locate.contexts import prefixes
from ultraedit.methods.locate.covariance import covariances, factor
from ultraedit.models.memory import Cost


class Locating(Method):
    """A method with the covariance of keys at its modules, and prefixes for its prompts.

    Both are the unedited model's, so there is no state: after a restart they are found again
    by the model's digest, or measured again.
    """

    config: LocateConfig

    def __init__(self, config: LocateConfig | None = None) -> None:
        super().__init__(config)
        self.factors: dict[str, Tensor] = {}
        self.before: list[str] = []

    @property
    def needs_subject(self) -> bool:
        return self.config.fact_token == "subject_last"

    def prepare(self, workbench: Workbench) -> None:
        """Find or measure the covariance's Cholesky factors, and draw the prefixes; once.

        Raises:
            InputError: the text to measure over cannot be read.
            TurnRefusedError: what was measured is no number.
        """
        if self.factors:
            return
        found = covariances(workbench, self.config.source)
        before = prefixes(workbench, self.config.prefixes)
        try:
            # One after the other: at 7B's width each is gigabytes.
            self.factors = {name: factor(found.pop(name)) for name in list(found)}
        except ValueError as error:
            self.factors = {}
            raise TurnRefusedError(f"{error}; the turn is refused") from None
        self.before = before

    def cost(self, shapes: Sequence[tuple[int, int]], edits: int) -> Cost:
        return Cost(memory=8 * sum(d * d for d, _ in shapes))

    def kept_bytes(self) -> int:
        return sum(factor.numel() * factor.element_size() for factor in self.factors.values())
