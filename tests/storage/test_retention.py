"""What a bounded history keeps."""

import pytest
import torch

from ultraedit.errors import InputError
from ultraedit.storage.retention import parse_history, pruned, rebuildable


@pytest.mark.parametrize(("text", "keep"), [("full", -1), ("none", 0), ("0", 0), ("7", 7), (3, 3)])
def test_history_options(text, keep):
    assert parse_history(text) == keep


@pytest.mark.parametrize("text", ["", "all", "-1", -2, "1.5", "7 turns"])
def test_history_options_that_are_none(text):
    with pytest.raises(InputError, match="full, none or a number"):
        parse_history(text)


def test_pruning_keeps_what_the_last_entries_are_rebuilt_from(generator):
    from ultraedit.storage.journal import Head, Outline

    for _ in range(200):
        keep = int(torch.randint(1, 9, (), generator=generator))
        every = int(torch.randint(1, 7, (), generator=generator))
        after, snapshots, outline = 0, (0,), {0: Outline(0, "start", None, None, False)}
        for number in range(1, 30):
            is_undo = bool(torch.rand((), generator=generator) < 0.2)
            outline[number] = Outline(number, "undo" if is_undo else "turn", 0, None, not is_undo)
            if is_undo or number - snapshots[-1] >= every:
                snapshots = (*snapshots, number)
            after, snapshots = pruned(number, snapshots, after, keep)
            head = Head(number, "", {}, after, snapshots, keep, every)
            kept = rebuildable(head, outline)
            assert kept >= {0, *range(max(number - keep, 0), number + 1)}
            assert len(kept) <= keep + every + 2
