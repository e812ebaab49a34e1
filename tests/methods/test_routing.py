"""Routing by hand: a linear model whose scores can be read off."""

import pytest
import torch
from torch import nn

from ultraedit import InputError
from ultraedit.encoding.batching import Query
from ultraedit.methods.routing import Router
from ultraedit.methods.wise.copies import SideCopies
from ultraedit.methods.wise.shards import Shard


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, inputs_embeds=None, attention_mask=None, past_key_values=None):
        return self.linear(inputs_embeds)


class Cache:
    def __init__(self, length):
        self.length = length

    def get_seq_length(self):
        return self.length


def memory(scale, least, number=0):
    """Adds scale times the first feature, to the second."""
    delta = torch.tensor([[0.0, scale], [0.0, 0.0]])
    return Shard(delta, 1.0, least, number, 1)


def rows(*firsts):
    """Texts of three tokens: a first one, and two with this first feature."""
    return torch.tensor([[[9.0, 0.0], [f, 0.0], [f, 0.0]] for f in firsts])


def copies(*shards, ratio=1.0):
    return SideCopies(shards, ratio)


@pytest.fixture
def model():
    return Model()


def added(model, inputs, **rest):
    return (model(inputs_embeds=inputs, **rest) - inputs)[:, :, 1]


def test_what_scores_above_the_ratio_of_the_least_is_routed(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 10.0), ratio=0.88))
    # Scores are the first feature itself: 8.8 is the limit.
    found = added(model, rows(8.79, 8.81, 20.0))
    torch.testing.assert_close(found[:, 1], torch.tensor([0.0, 8.81, 20.0]))
    assert (router.asked, router.routed) == (3, 2)
    router.remove()
    assert not added(model, rows(20.0)).any()


def test_of_several_memories_the_most_activated_serves(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 1.0), memory(3.0, 30.0), memory(2.0, 1.0)))
    found = added(model, rows(0.4, 5.0, 20.0))
    # At 5 the second would score 15, which is less than its own edits do.
    torch.testing.assert_close(found[:, 1], torch.tensor([0.0, 10.0, 60.0]))


def test_a_query_says_which_tokens_are_asked(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0)))
    inputs = torch.tensor([[[9.0, 0.0], [2.0, 0.0], [90.0, 0.0]]] * 2)
    mask = torch.ones(2, 3, dtype=torch.long)
    with router.query(Query(torch.tensor([1, 2]), mask)) as routing:
        found = added(model, inputs, attention_mask=mask)
    assert routing.routed.tolist() == [False, True]
    assert found[0].tolist() == [0, 0, 0]
    assert found[1].tolist() == [9, 2, 90]


def test_padding_is_not_asked(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0)))
    inputs = torch.tensor([[[90.0, 0.0], [9.0, 0.0], [6.0, 0.0], [2.0, 0.0]]])
    mask = torch.tensor([[0, 1, 1, 1]])
    # (6 + 2) / 2 without the padding and the first token.
    assert not added(model, inputs, attention_mask=mask).any()
    assert added(model, inputs).any()


def test_what_is_generated_goes_the_way_of_its_own_prompt(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0)))
    ours, others = Cache(0), Cache(0)
    added(model, rows(2.0, 7.0), past_key_values=ours)
    added(model, rows(7.0, 2.0), past_key_values=others)
    ours.length = others.length = 3
    one = torch.tensor([[[50.0, 0.0]], [[1.0, 0.0]]])
    assert added(model, one, past_key_values=ours).tolist() == [[0.0], [1.0]]
    assert added(model, one, past_key_values=others).tolist() == [[50.0], [0.0]]
    assert router.asked == 4
    # Several tokens more are another question, asked on their own.
    assert added(model, rows(1.0, 7.0), past_key_values=ours)[:, 1].tolist() == [0.0, 7.0]
    assert added(model, one, past_key_values=ours).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("cache", [[torch.zeros(1)], (torch.zeros(1),)])
def test_with_a_cache_that_is_a_list_every_pass_is_a_question(model, cache):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0)))
    added(model, rows(2.0), past_key_values=cache)
    one = torch.tensor([[[50.0, 0.0]]])
    assert added(model, one, past_key_values=cache).tolist() == [[50.0]]
    assert router.asked == 2


def test_inside_a_query_the_first_decision_stays_without_any_cache(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0)))
    longer = torch.cat([rows(2.0), torch.tensor([[[90.0, 0.0]]])], 1)
    with router.query(Query(torch.tensor([2]), torch.ones(1, 3))) as routing:
        assert not added(model, rows(2.0)).any()
        assert not added(model, longer).any()
    assert routing.routed.tolist() == [False]
    assert router.asked == 1
    assert added(model, longer).any()


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_masks_of_four_dimensions_and_by_position(model, kind):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0)))
    inputs = torch.tensor([[[90.0, 0.0], [9.0, 0.0], [6.0, 0.0], [2.0, 0.0]]])
    flat = torch.tensor([[False, True, True, True]])
    mask = flat[:, None, None, :].expand(1, 1, 4, 4)
    mask = mask if kind == torch.bool else torch.zeros(1, 1, 4, 4).masked_fill(~mask, -1e9)
    assert not added(model, inputs, attention_mask=mask).any()
    assert torch.equal(model(inputs, flat), inputs)


def test_other_memories_make_what_was_decided_void(model):
    router = Router(model, model.linear)
    router.serve(copies(memory(1.0, 5.0), memory(2.0, 5.0)))
    cache = Cache(0)
    added(model, rows(7.0), past_key_values=cache)
    cache.length = 3
    router.serve(copies(memory(1.0, 5.0)))
    one = torch.tensor([[[6.0, 0.0]]])
    assert added(model, one, past_key_values=cache).tolist() == [[6.0]]


def test_a_second_router_of_one_module_is_refused(model):
    first = Router(model, model.linear)
    with pytest.raises(InputError, match="detach"):
        Router(model, model.linear)
    first.remove()
    Router(model, model.linear).remove()


def test_it_can_be_bypassed_and_does_nothing_without_edits(model):
    router = Router(model, model.linear)
    router.serve(None)
    assert not added(model, rows(50.0)).any()
    router.serve(copies(memory(1.0, 5.0)))
    with router.bypassed():
        assert not added(model, rows(50.0)).any()
    assert added(model, rows(50.0)).any()
    # Called by itself, the module is the model's own.
    assert torch.equal(model.linear(rows(50.0)), rows(50.0))
