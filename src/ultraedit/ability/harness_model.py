"""The harness's model class, which reports every answer to a progress function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit.progress import Progress


def watched_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int | str,
    progress: Progress,
) -> Any:
    """The harness's own model class over `model`."""
    from lm_eval.models.huggingface import HFLM

    class Watched(HFLM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            with self._reported("scoring texts", len(requests)):
                return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            with self._reported("scoring documents", len(requests)):
                return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            with self._reported("writing answers", len(requests)):
                return super().generate_until(requests, disable_tqdm=True)

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = False, **given: Any
        ) -> Any:
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, **given)

        @contextmanager
        def _reported(self, what: str, total: int) -> Iterator[None]:
            before = self.cache_hook
            with progress(what, total) as advance:
                # The harness hands every answer to this hook as soon as it has it.
                self.set_cache_hook(_Each(advance))
                try:
                    yield
                finally:
                    self.set_cache_hook(before)

    return Watched(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


class _Each:
    """In the place of the harness's cache of answers: counts them."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._advance(1)


@contextmanager
def watched_prompts(progress: Progress) -> Iterator[None]:
    """Report the harness's one progress bar that cannot be switched off to `progress` instead."""
    from lm_eval.api import task as module

    own = getattr(module, "tqdm", None)
    if own is None:
        yield
        return

    def reported(documents: Any, total: int | None = None, **_: Any) -> Iterator[Any]:
        with progress("writing prompts", total) as advance:
            for document in documents:
                yield document
                advance(1)

    module.tqdm = reported
    try:
        yield
    finally:
        module.tqdm = own
