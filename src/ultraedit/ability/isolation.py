"""What the harness changes in its process, put back after it."""

from __future__ import annotations

import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout

import numpy as np
import torch

# lm_eval remarks on every task and every model that is handed to it; the others on data sets
# that cannot be reached, once for each of many attempts.
TALKATIVE = ("lm_eval", "datasets", "huggingface_hub", "fsspec", "absl", "evaluate")


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, the harness may seed, set variables and print; after, all is as it was.

    Restored are the generators of random, numpy and torch, the environment, the levels of
    loggers, and whether transformers, datasets and huggingface_hub talk and draw bars. What is
    printed or warned of inside goes nowhere.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment())
        stack.enter_context(_generators())
        stack.enter_context(_silence())
        yield


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _generators() -> Iterator[None]:
    plain, array, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else None
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(array)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def _silence() -> Iterator[None]:
    import datasets
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    bars = not datasets.are_progress_bars_disabled()
    hub_bars = not hub.are_progress_bars_disabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        transformers_logging.set_verbosity_error()
        datasets.disable_progress_bars()
        hub.disable_progress_bars()
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # Of the harness's own libraries; nothing that a caller of ours could act on.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            hub.enable_progress_bars()
