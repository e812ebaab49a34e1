import pytest
import torch

from ultraedit.methods.wise.shards import Shard, mask, merged, ties


def test_masks_are_random_and_always_the_same():
    one, other = mask(200, 300, 0.2, 0), mask(200, 300, 0.2, 1)
    assert torch.equal(one, mask(200, 300, 0.2, 0))
    assert abs(float(one.float().mean()) - 0.2) < 0.01
    # Independent: both allow what chance lets them.
    assert abs(float((one & other).float().mean()) - 0.04) < 0.005
    assert mask(4, 4, 1.0, 3).all()


def test_ties_by_hand():
    """Keep the largest half of each, elect the sign of the sum, average who agrees."""
    a = torch.tensor([[4.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    b = torch.tensor([[2.0, -6.0, 0.1], [1.0, -1.0, 0.2]])
    c = torch.tensor([[-5.0, 0.3, 0.2], [3.0, -4.0, 0.1]])
    # Kept of a: 4, 3, -2; of b: 2, -6 and one of the ones, its first; of c: -5, 3, -4.
    found = ties([a, b, c], 0.5)
    assert found[0].tolist() == [3.0, -6.0, 0.0]
    assert found[1, 2] == -2.0
    # 3 - 4 is negative, whatever b kept there: -4, or the mean of -4 and -1.
    assert found[1, 1] in (-4.0, -2.5)
    assert found[1, 0] in (3.0, 2.0)


def test_ties_against_a_loop(generator):
    deltas = [torch.randn(6, 5, generator=generator) for _ in range(3)]
    density = 0.4
    found = ties(deltas, density)
    kept = []
    for delta in deltas:
        limit = delta.abs().flatten().sort(descending=True).values[round(0.4 * 30) - 1]
        kept.append(torch.where(delta.abs() >= limit, delta, 0.0))
    for i in range(6):
        for j in range(5):
            values = [float(delta[i, j]) for delta in kept]
            total = sum(values)
            agree = [v for v in values if v * total > 0]
            expected = sum(agree) / len(agree) if agree else 0.0
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


def test_of_one_all_is_kept():
    delta = torch.randn(4, 4)
    assert torch.equal(ties([delta], 1.0), delta)


def test_shards_with_masks_of_their_own_keep_what_only_they_have():
    shards = []
    for number in (0, 1):
        own = mask(30, 20, 0.2, number)
        delta = torch.where(own, torch.randn(30, 20), 0.0)
        shards.append(Shard(delta, 0.2, 3.0 + number, number, 500))
    one = merged(shards, 0.53)
    assert (one.least, one.edits, one.share) == (3.0, 1000, 1.0)
    alone = mask(30, 20, 0.2, 0) & ~mask(30, 20, 0.2, 1)
    assert torch.equal(one.delta[alone], shards[0].delta[alone])


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_shard_is_what_its_tensors_say(share):
    own = mask(7, 5, share, 4)
    shard = Shard(torch.where(own, torch.randn(7, 5), 0.0), share, 1.5, 4, 9)
    again = Shard.unpacked(shard.values, 7, 5, shard.numbers)
    assert torch.equal(again.delta, shard.delta)
    assert (again.share, again.least, again.number, again.edits) == (share, 1.5, 4, 9)
    assert shard.values.numel() == int(own.sum())
    assert shard.values is shard.values
