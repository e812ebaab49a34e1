import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraedit.encoding.batching import BATCH_OVERHEAD, batches_of, collate, plan
from ultraedit.encoding.tokenise import Encoded

TEXTS = [Encoded((5, 6, 7), (8, 9), 1), Encoded((5,), (6,), 1), Encoded((5, 6), (7, 8, 9), 3)]


def test_every_text_is_planned_once_within_the_budget():
    lengths = [7, 3, 9, 3, 50, 1, 8]
    groups = plan([(length, 0) for length in lengths], 24)
    assert sorted(place for group in groups for place in group) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[p] for p in group) <= 24


def test_rows_predict_the_target_on_either_side():
    for side in ("left", "right", "both"):
        batch = collate(TEXTS, [0, 1, 2], "cpu", 0, side)
        for row, text in enumerate(TEXTS):
            assert batch.labels[row][batch.answer_mask[row]].tolist() == list(text.target)
            assert int(batch.scored_mask[row].sum()) == text.scored
            real = batch.attention_mask[row].bool()
            assert batch.input_ids[row][real].tolist() == list(text.ids[:-1])
            assert batch.position_ids[row][real].tolist() == list(range(len(text.ids) - 1))
            assert batch.input_ids[row, batch.prompt_end[row]] == text.prompt[-1]


def test_logits_to_keep_reaches_every_answer_row():
    for side in ("left", "right", "both"):
        batch = collate(TEXTS, [0, 1, 2], "cpu", 0, side)
        assert not batch.answer_mask[:, : -batch.logits_to_keep].any()
        assert batch.answer_mask[:, -batch.logits_to_keep].any()


def test_on_both_sides_all_answers_begin_at_one_column():
    batch = collate(TEXTS, [0, 1, 2], "cpu", 0, "both")
    assert batch.prompt_end.tolist() == [batch.first_answer] * 3 == [2, 2, 2]
    assert batch.width == 2 + 3
    assert batch.starts == (0, 2, 1)
    assert batch.texts == tuple(text.ids[:-1] for text in TEXTS)


def cost(widths, groups):
    return sum(
        len(group) * sum(max(widths[i][side] for i in group) for side in (0, 1)) + BATCH_OVERHEAD
        for group in groups
    )


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=40),
    budget=st.integers(1, 400),
)
def test_a_plan_is_within_its_budget_and_no_dearer_than_greedy_ones(widths, budget):
    groups = plan(widths, budget)
    assert sorted(place for group in groups for place in group) == list(range(len(widths)))
    for group in groups:
        padded = len(group) * sum(max(widths[i][side] for i in group) for side in (0, 1))
        assert len(group) == 1 or padded <= budget
    ordered = sorted(range(len(widths)), key=lambda i: sum(widths[i]))
    greedy = [[ordered[0]]]
    for place in ordered[1:]:
        longer = [*greedy[-1], place]
        if len(longer) * sum(max(widths[i][s] for i in longer) for s in (0, 1)) <= budget:
            greedy[-1] = longer
        else:
            greedy.append([place])
    assert cost(widths, groups) <= cost(widths, [[i] for i in range(len(widths))])
    if len(set(map(sum, widths))) == len(widths):
        assert cost(widths, groups) <= cost(widths, greedy)


def test_few_long_texts_among_many_short_ones_get_a_batch_of_their_own():
    widths = [(200, 2)] + [(8, 2)] * 50
    assert plan(widths, 10_000) == [list(range(1, 51)), [0]]


def test_batches_carry_each_texts_place():
    seen = torch.cat([batch.index for batch in batches_of(TEXTS, 6, "cpu", 0)])
    assert sorted(seen.tolist()) == [0, 1, 2]
