import torch

from ultraedit.encoding.batching import batches_of, collate
from ultraedit.encoding.tokenise import Encoded

TEXTS = [Encoded((5, 6, 7), (8, 9), 1), Encoded((5,), (6,), 1), Encoded((5, 6), (7, 8, 9), 3)]


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


def test_the_prompts_of_a_part_begin_where_the_longest_does():
    texts = [TEXTS[1], TEXTS[2], TEXTS[0]]
    batch = collate(texts, [4, 5, 6], "cpu", 0, "both", [2, 1])
    short, long = batch.prompts()
    assert short.index.tolist() == [4, 5]
    assert long.index.tolist() == [6]
    assert (short.first_answer, long.first_answer) == (1, 2)
    assert short.starts == (1, 0)
    assert long.starts == (0,)
    assert short.input_ids[:, : short.first_answer].tolist() == [[0], [5]]
    assert long.input_ids[:, : long.first_answer].tolist() == [[5, 6]]


def test_batches_carry_each_texts_place():
    seen = torch.cat([batch.index for batch in batches_of(TEXTS, 6, "cpu", 0)])
    assert sorted(seen.tolist()) == [0, 1, 2]


def test_texts_cut_before_their_answers_lie_cut_to_cut():
    batch = collate(TEXTS, [0, 1, 2], "cpu", 0, "both", cuts=[1, 0, 1])
    assert batch.first_answer == 1
    assert batch.starts == (0, 1, 0)
    assert batch.prompt_end.tolist() == [2, 1, 1]
    for row, text in enumerate(TEXTS):
        assert batch.labels[row][batch.answer_mask[row]].tolist() == list(text.target)
    assert not batch.answer_mask[:, : -batch.logits_to_keep].any()
    whole = collate(TEXTS, [0, 1, 2], "cpu", 0, "right", cuts=[1, 0, 1])
    assert whole.first_answer == 0
