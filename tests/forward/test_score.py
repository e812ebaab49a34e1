import torch
from torch.nn import functional as F

from ultraedit.encoding.batching import batches_of
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.score import score

TEXTS = [
    Encoded((1, 9, 30), (40, 41, 2), 2),
    Encoded((1, 7), (8,), 1),
    Encoded((1, 5, 6, 7), (9, 9), 2),
]


def test_scores_are_those_of_each_text_alone(build, architecture):
    model = build(architecture)
    for batch_tokens in (1, 64):
        scored = score(model, batches_of(TEXTS, batch_tokens, "cpu", 0))
        for text, result in zip(TEXTS, scored, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([text.ids])).logits[0, len(text.prompt) - 1 : -1]
            target = torch.tensor(text.target)
            losses = F.cross_entropy(logits, target, reduction="none")
            torch.testing.assert_close(result.losses, losses, rtol=1e-4, atol=1e-4)
            assert result.correct.tolist() == (logits.argmax(-1) == target).tolist()


def test_an_appended_end_of_sequence_is_not_counted(build):
    result = score(build("llama"), batches_of(TEXTS[:1], 64, "cpu", 0))[0]
    assert len(result.correct) == 3
    result.correct[:] = torch.tensor([True, False, True])
    assert result.token_accuracy == 0.5
    assert not result.exact
    result.correct[:] = torch.tensor([True, True, False])
    assert result.exact


def test_the_query_context_knows_where_prompts_end(build):
    seen = []

    def query(asked):
        seen.append(asked)
        return torch.no_grad()

    score(build("llama"), batches_of(TEXTS[1:2], 64, "cpu", 0), query)
    assert seen[0].prompt_end.tolist() == [1]
