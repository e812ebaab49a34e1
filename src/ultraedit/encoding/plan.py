"""Which texts are read together: little padding, few batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# What one more batch costs beside its tokens, in tokens: weights are read once a batch, and below
# some hundred tokens reading them takes longer than the products.
BATCH_OVERHEAD = 96
# The same of a batch of answers: its backward pass reads the weights again, and a product
# library may have to put them in another order for that.
ANSWERS_OVERHEAD = 256
# Keys and values weigh less than a pass, and a graph weighs more: of a batch so many times the
# tokens of a pass are kept, and of its answers as small a part differentiated.
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
        batch_tokens: Padded tokens of a pass over prompts; half of it, of one over answers,
            which has a graph; twice of it, of a batch, whose prompts leave keys and values. A
            longer text is a batch of its own.

    Returns:
        Batches of parts of places in `widths`, each exactly once.
    """
    order = sorted(range(len(widths)), key=lambda i: (widths[i][1], widths[i][0], i))
    most = MOST_PARTS * batch_tokens
    ordered = [widths[i] for i in order]
    _, ends = _cut(ordered, most, ANSWERS_OVERHEAD, batch_tokens // MOST_PARTS)
    batches = []
    for group in _groups(order, ends):
        inside = sorted(group, key=lambda i: (widths[i][0], i))
        prompts = [(widths[i][0], 0) for i in inside]
        batches.append(_groups(inside, _cut(prompts, batch_tokens, BATCH_OVERHEAD)[1]))
    return batches


def _groups(order: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    return [list(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _cut(
    widths: Sequence[Widths], most: int, overhead: int, most_answers: int | None = None
) -> tuple[int, list[int]]:
    """Least cost of the batches of an ordered sequence, and where each of them ends.

    Where `most_answers` limits the answers of a batch, they alone are paid for here.
    """
    prompts, answers = np.array(widths, dtype=np.int64).reshape(-1, 2).T
    best = np.zeros(len(widths) + 1, dtype=np.int64)
    begin = [0]
    for end in range(1, len(widths) + 1):
        # No batch that ends here can begin before this: its last text alone fills it.
        least = max(1, int(prompts[end - 1] + answers[end - 1]))
        first = max(0, end - max(1, most // least))
        before = np.maximum.accumulate(prompts[first:end][::-1])
        after = np.maximum.accumulate(answers[first:end][::-1])
        count = np.arange(1, len(before) + 1)
        padded, asked = count * (before + after), count * after
        fits = padded <= most
        if most_answers is not None:
            fits &= asked <= most_answers
        fits[0] = True
        reach = len(fits) if fits.all() else int(fits.argmin())
        paid = (padded if most_answers is None else asked)[:reach]
        cost = best[first:end][::-1][:reach] + paid + overhead
        # Of equal ones the longest batch.
        chosen = reach - 1 - int(cost[::-1].argmin())
        best[end] = cost[chosen]
        begin.append(end - 1 - chosen)
    ends = []
    end = len(widths)
    while end:
        ends.append(end)
        end = begin[end]
    return int(best[-1]), ends[::-1]
