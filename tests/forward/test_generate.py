import pytest
import torch

from ultraedit.evaluation.matching import matches, normalise_answer
from ultraedit.forward.generate import generate_answers


def ask(model, tokenizer, prompts, **options):
    return generate_answers(
        model,
        tokenizer,
        prompts,
        **{"max_new_tokens": 8, "batch_tokens": 64, "device": torch.device("cpu"), **options},
    )


def greedy_by_hand(model, prompt, steps):
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_batched_answers_are_those_of_each_prompt_alone(build, architecture, tokenizer):
    model = build(architecture)
    prompts = [[1, 50, 60, 70, 80], [1, 90], [1, 33, 44, 55, 66, 77, 88, 99]]
    answers = ask(model, tokenizer, prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = greedy_by_hand(model, prompt, 8)
        stop = next(
            (i for i, t in enumerate(expected) if t == 2 or "\n" in tokenizer.decode([t])), 8
        )
        assert list(answer.ids) == expected[: max(stop, 1)]


def forced(model, tokens):
    """Make the head answer `tokens` one after another, whatever the prompt."""

    class Head(torch.nn.Module):
        calls = 0

        def forward(self, hidden):
            logits = torch.zeros(*hidden.shape[:-1], 400)
            logits[..., tokens[min(Head.calls, len(tokens) - 1)]] = 1
            Head.calls += 1
            return logits

    model.lm_head = Head()
    return model


def test_an_answer_ends_with_the_line(build, tokenizer):
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    city = tokenizer(" city", add_special_tokens=False)["input_ids"]
    answer = ask(forced(build("llama"), [*city, newline, *city]), tokenizer, [[1, 5]])[0]
    assert answer.text == "city"
    assert list(answer.ids) == city


def test_an_answer_ends_with_end_of_sequence(build, tokenizer):
    city = tokenizer(" city", add_special_tokens=False)["input_ids"]
    answer = ask(forced(build("llama"), [*city, 2, *city]), tokenizer, [[1, 5]])[0]
    assert answer.text == "city"
    assert list(answer.ids) == city


def test_a_model_that_ends_at_once_answers_with_that_token(build, tokenizer):
    answer = ask(forced(build("llama"), [2]), tokenizer, [[1, 5]])[0]
    assert answer.text == ""
    assert answer.ids == (2,)


def test_the_tokenizers_own_end_counts_as_well(build, tokenizer):
    city = tokenizer(" city", add_special_tokens=False)["input_ids"]
    model = forced(build("llama"), [*city, 2, *city])
    model.generation_config.eos_token_id = 77
    assert ask(model, tokenizer, [[1, 5]])[0].text == "city"


def test_greedy_whatever_the_checkpoint_recommends(build, tokenizer):
    model = build("llama")
    plain = ask(model, tokenizer, [[1, 50, 60]])
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.generation_config.repetition_penalty = 9.0
    assert ask(model, tokenizer, [[1, 50, 60]]) == plain


@pytest.mark.parametrize(
    ("text", "accepted", "expected"),
    [
        ("Paris.", ["paris"], True),
        ("the  United States", ["United States"], True),
        ("Paris, France", ["Paris"], False),
        ("", ["Paris"], False),
        ("Lyon", ["Paris", "Lyon"], True),
        ("ＰＡＲＩＳ", ["Paris"], True),
        ("3.5", ["35"], False),
        ("The", ["A"], False),
        ("!", ["?"], False),
        ("C++", ["C#"], False),
        ("-5", ["5"], False),
        ("“Paris”", ["Paris"], True),
        ("Paris. It lies on the Seine.", ["Paris"], True),
        ("Paris Saint-Germain. A club", ["Paris"], False),
        ("St. Louis. A city", ["St. Louis"], True),
        ("It is Paris. Yes", ["Paris"], False),
    ],
)
def test_matches(text, accepted, expected):
    assert matches(text, accepted) is expected


def test_normalisation_is_stable():
    for text in ("The Beatles!", " a  b ", "C++", "北京。", "..."):
        assert normalise_answer(normalise_answer(text)) == normalise_answer(text)
