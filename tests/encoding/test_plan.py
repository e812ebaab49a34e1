from hypothesis import given, settings
from hypothesis import strategies as st

from ultraedit.encoding.plan import BATCH_OVERHEAD, MOST_PARTS, plan, plan_apart


def test_every_text_is_planned_once_within_the_budget():
    lengths = [7, 3, 9, 3, 50, 1, 8]
    groups = plan([(length, 0) for length in lengths], 24)
    assert sorted(place for group in groups for place in group) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[p] for p in group) <= 24


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


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=40),
    budget=st.integers(1, 400),
)
def test_prompts_apart_from_answers_stay_within_their_budgets(widths, budget):
    batches = plan_apart(widths, budget)
    places = [place for parts in batches for part in parts for place in part]
    assert sorted(places) == list(range(len(widths)))
    for parts in batches:
        inside = [widths[place] for part in parts for place in part]
        padded = len(inside) * (max(p for p, _ in inside) + max(a for _, a in inside))
        asked = len(inside) * max(a for _, a in inside)
        assert len(inside) == 1 or (padded <= MOST_PARTS * budget and asked <= budget // MOST_PARTS)
        for part in parts:
            assert len(part) == 1 or len(part) * max(widths[p][0] for p in part) <= budget


def test_answers_of_one_batch_have_prompts_in_parts_of_like_length():
    widths = [(40, 3), (4, 3)] * 20
    assert plan_apart(widths, 2048) == [[list(range(1, 40, 2)), list(range(0, 40, 2))]]


def test_long_answers_make_a_batch_of_their_own():
    widths = [(10, 2)] * 40 + [(10, 30)] * 2
    assert plan_apart(widths, 2048) == [[list(range(40))], [[40, 41]]]
