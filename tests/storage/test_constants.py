"""The part of a state that never changes, beside the state."""

import pytest
import torch

from ultraedit.errors import InputError
from ultraedit.storage.constants import (
    REFERENCE,
    Constants,
    read_constants,
    separate,
    together,
)
from ultraedit.storage.factors import write_record

STATE = {"anchors.a": torch.eye(3), "inverse.a": torch.ones(3, 3), "keys": torch.tensor(4.0)}


def is_anchor(key):
    return key.startswith("anchors.")


def test_what_is_separated_comes_together_again(tmp_path):
    rest, constants = separate(STATE, is_anchor, Constants())
    assert rest.keys() == {"inverse.a", "keys", REFERENCE}
    assert constants.tensors.keys() == {"anchors.a"}
    record = write_record(tmp_path / constants.name, constants.tensors)
    found = together(rest, read_constants(tmp_path, [record], rest))
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in STATE.items())


def test_the_name_follows_from_the_content_alone():
    _, constants = separate(STATE, is_anchor, Constants())
    _, again = separate({k: v.clone() for k, v in STATE.items()}, is_anchor, Constants())
    assert again.name == constants.name
    for other in (torch.eye(3) * 2, torch.eye(3).double(), torch.eye(3).reshape(1, 3, 3)):
        _, changed = separate({**STATE, "anchors.a": other}, is_anchor, Constants())
        assert changed.name != constants.name
    _, renamed = separate({"anchors.b": torch.eye(3)}, is_anchor, Constants())
    assert renamed.name != constants.name


def test_the_same_tensors_are_not_read_again(monkeypatch):
    _, constants = separate(STATE, is_anchor, Constants())
    name = constants.name
    monkeypatch.setattr("ultraedit.storage.constants.digest_of", lambda tensors: 1 / 0)
    _, known = separate({**STATE, "keys": torch.tensor(5.0)}, is_anchor, constants)
    assert known is constants
    assert known.name == name


def test_a_state_without_constants_is_itself(tmp_path):
    rest, constants = separate(STATE, lambda key: False, Constants())
    assert rest == STATE
    assert not constants.tensors
    assert not read_constants(tmp_path, [], rest).tensors


def test_constants_that_nobody_recorded_are_named(tmp_path):
    rest, constants = separate(STATE, is_anchor, Constants())
    write_record(tmp_path / constants.name, constants.tensors)
    with pytest.raises(InputError, match=f"{constants.name} is missing"):
        read_constants(tmp_path, [], rest)
