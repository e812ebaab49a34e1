import math

import pytest
import torch

from ultraedit.linalg.metric import directions, multipliers
from ultraedit.methods.anchored import defaults
from ultraedit.methods.anchored.memory import KeyMemory


def spread(generator, d, rows=None):
    """A second moment with directions of very different use, as hidden states have."""
    scales = torch.logspace(0, -2, d)
    keys = torch.randn(rows or 4 * d, d, generator=generator) * scales
    return keys.T @ keys / len(keys) + 1e-3 * scales.square().mean() * torch.eye(d)


def turn(memory, keys, targets, ridge=0.03):
    """Every key's output moved by its target, as far as it points that way."""
    sizes = targets.norm(dim=1)
    gradients = targets / sizes[:, None]
    found = directions(keys, gradients, memory.inverse)
    amounts = multipliers(found.kernel, sizes, ridge, torch.full((len(keys),), math.inf))
    shift = found.left.T @ (gradients * amounts.float()[:, None])
    return shift, memory.after(found.left, found.system, defaults.KEY_WEIGHT)


def test_past_keys_add_to_the_anchors(generator):
    anchors = spread(generator, 24)
    memory = KeyMemory.empty(anchors)
    exact = anchors.double()
    for _ in range(5):
        keys = torch.randn(7, 24, generator=generator) * 0.3
        _, memory = turn(memory, keys, torch.randn(7, 3, generator=generator))
        exact = exact + defaults.KEY_WEIGHT * keys.double().T @ keys.double()
    assert memory.keys == 35
    expected = torch.linalg.inv(exact)
    assert (memory.inverse - expected).norm() / expected.norm() < 1e-4


def test_fading_keeps_the_anchors_and_a_share_of_the_keys(generator):
    anchors = spread(generator, 16)
    keys = torch.randn(40, 16, generator=generator)
    _, memory = turn(KeyMemory.empty(anchors), keys, torch.randn(40, 2, generator=generator))
    faded = memory.faded(0.25)
    assert faded.keys == 10
    exact = anchors.double() + 0.25 * defaults.KEY_WEIGHT * keys.double().T @ keys.double()
    expected = torch.linalg.inv(exact)
    assert (faded.inverse - expected).norm() / expected.norm() < 1e-2


def test_after_twenty_thousand_turns_an_edit_is_still_written(generator):
    """A plain sum of keys would have swallowed it: h^T M^-1 h falls without end."""
    d = 48
    scales = torch.logspace(0, -2, d)
    memory = KeyMemory.empty(spread(generator, d))
    fresh = torch.randn(1, d, generator=generator) * scales
    other = torch.randn(200, d, generator=generator) * scales

    def written():
        shift, _ = turn(memory, fresh, torch.ones(1, 1))
        return float(fresh @ shift), float((other @ shift).square().mean().sqrt())

    kept = [float((fresh @ memory.inverse * fresh).sum())]
    gain, spill = written()
    for number in range(20_000):
        keys = torch.randn(2, d, generator=generator) * scales
        _, memory = turn(memory, keys, torch.ones(2, 1))
        if number in (4_999, 19_999):
            kept.append(float((fresh @ memory.inverse * fresh).sum()))
            assert torch.equal(memory.inverse, memory.inverse.T)
            assert torch.linalg.eigvalsh(memory.inverse.double()).min() > 0
    later_gain, later_spill = written()
    assert memory.keys <= defaults.MOST_KEYS
    # It levelled off: four times the turns change nothing any more.
    assert kept[2] == pytest.approx(kept[1], rel=0.5)
    assert later_gain == pytest.approx(gain, rel=0.01)
    assert later_spill < 2 * spill


def test_one_prompt_edited_a_hundred_times_takes_every_new_answer(generator):
    d, e = 32, 8
    memory = KeyMemory.empty(spread(generator, d))
    weight = torch.zeros(d, e)
    key = torch.randn(1, d, generator=generator)
    for _ in range(100):
        answer = torch.randn(1, e, generator=generator)
        missing = answer - key @ weight
        shift, memory = turn(memory, key, missing)
        weight += shift
        assert (key @ weight - answer).norm() < 0.1 * missing.norm()
    assert torch.isfinite(memory.inverse).all()
