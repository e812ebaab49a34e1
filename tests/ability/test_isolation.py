import logging
import os
import random
import warnings

import datasets
import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from ultraedit.ability.isolation import isolated


@isolated()
def disturb():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    os.environ["ULTRAEDIT_KEPT"] = "inside"
    del os.environ["ULTRAEDIT_GONE"]
    os.environ["ULTRAEDIT_NEW"] = "inside"
    print("talk")
    warnings.warn("talk", FutureWarning, stacklevel=1)
    logging.getLogger("lm_eval.tasks").warning("talk")
    raise RuntimeError


def test_all_is_as_it_was(monkeypatch, capsys):
    monkeypatch.setenv("ULTRAEDIT_KEPT", "before")
    monkeypatch.setenv("ULTRAEDIT_GONE", "before")
    monkeypatch.delenv("ULTRAEDIT_NEW", raising=False)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    level = logging.getLogger("lm_eval").level
    verbosity = transformers_logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    with pytest.raises(RuntimeError):
        disturb()
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])
    assert os.environ["ULTRAEDIT_KEPT"] == os.environ["ULTRAEDIT_GONE"] == "before"
    assert "ULTRAEDIT_NEW" not in os.environ
    assert logging.getLogger("lm_eval").level == level
    assert transformers_logging.get_verbosity() == verbosity
    assert datasets.are_progress_bars_disabled() == bars
    assert capsys.readouterr() == ("", "")
    print("again")
    assert capsys.readouterr().out == "again\n"
