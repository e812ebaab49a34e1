"""Which texts are read together: little padding, few batches."""

from __future__ import annotations

from collections.abc import Sequence

# What one more batch costs beside its tokens, in tokens: weights are read once a batch, and below
# some hundred tokens reading them takes longer than the products.
BATCH_OVERHEAD = 96
# The same of a batch of answers: its backward pass reads the weights again, and a product
# library may have to put them in another order for that.
ANSWERS_OVERHEAD = 256
# A batch of answers may hold so many times the tokens of a batch: its prompts come in parts.
MOST_PARTS = 2

# Columns of a text that are aligned at their right end, and at their left.
Widths = tuple[int, int]


def plan(widths: Sequence[Widths], batch_tokens: int) -> list[list[int]]:
    """Group texts that are read in one pass.

    Texts are put in order by length, in each of three ways; an order is cut where the sum of
    padded tokens and `BATCH_OVERHEAD` for every batch is least, and the cheapest order counts.

    Args:
        widths: Per text the tokens that are padded on the left and those on the right.
        batch_tokens: Padded tokens of a batch; a longer text is a batch of its own.

    Returns:
        Places in `widths`, each exactly once; ties keep their order, so the plan is a
        function of its arguments alone.
    """
    orders = [
        sorted(range(len(widths)), key=lambda i: (sum(widths[i]), widths[i][0], i)),
        sorted(range(len(widths)), key=lambda i: (widths[i][0], widths[i][1], i)),
        sorted(range(len(widths)), key=lambda i: (widths[i][1], widths[i][0], i)),
    ]
    distinct = [order for place, order in enumerate(orders) if order not in orders[:place]]
    cuts = [_cut([widths[i] for i in order], batch_tokens, BATCH_OVERHEAD) for order in distinct]
    (_, ends), order = min(zip(cuts, distinct, strict=True), key=lambda found: found[0][0])
    return _groups(order, ends)


def plan_apart(widths: Sequence[Widths], batch_tokens: int) -> list[list[list[int]]]:
    """Group texts whose prompts are read before their answers, in passes of their own.

    Answers of like length make a batch; its prompts come in parts of like length.

    Args:
        widths: Per text the tokens of its prompt, but for the last, and those of its answer.
        batch_tokens: Padded tokens of one pass; a longer text is a batch of its own.

    Returns:
        Batches of parts of places in `widths`, each exactly once.
    """
    order = sorted(range(len(widths)), key=lambda i: (widths[i][1], widths[i][0], i))
    most = MOST_PARTS * batch_tokens
    _, ends = _cut([widths[i] for i in order], most, ANSWERS_OVERHEAD, answers_only=True)
    batches = []
    for group in _groups(order, ends):
        inside = sorted(group, key=lambda i: (widths[i][0], i))
        prompts = [(widths[i][0], 0) for i in inside]
        batches.append(_groups(inside, _cut(prompts, batch_tokens, BATCH_OVERHEAD)[1]))
    return batches


def _groups(order: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    return [list(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _cut(
    widths: Sequence[Widths], batch_tokens: int, overhead: int, answers_only: bool = False
) -> tuple[int, list[int]]:
    """Least cost of the batches of an ordered sequence, and where each of them ends."""
    best, begin = [0], [0]
    for end in range(1, len(widths) + 1):
        before = after = 0
        least, chosen = -1, end - 1
        for start in range(end - 1, -1, -1):
            before, after = max(before, widths[start][0]), max(after, widths[start][1])
            padded = (end - start) * (before + after)
            if padded > batch_tokens and start < end - 1:
                break
            paid = (end - start) * after if answers_only else padded
            cost = best[start] + paid + overhead
            if least < 0 or cost <= least:
                least, chosen = cost, start
        best.append(least)
        begin.append(chosen)
    ends = []
    end = len(widths)
    while end:
        ends.append(end)
        end = begin[end]
    return best[-1], ends[::-1]
