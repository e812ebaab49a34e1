import copy

import pytest
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from ultraedit import InputError
from ultraedit.encoding.tokenise import Encoder, ends_answers, joiner


def sentencepiece_like():
    """A tokenizer that, like SentencePiece ones, writes a space mark before every text."""
    pieces = ["▁", "▁what", "▁city", "▁new", "▁york", "?", "▁?"]
    tokenizer = Tokenizer(
        models.Unigram(
            [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((p, -2.0) for p in pieces)], 0
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_joint_tokens_are_those_of_the_whole_text(tokenizer):
    encoded = Encoder(tokenizer).encode("the capital of france is", "paris city")
    assert list(encoded.ids) == tokenizer("the capital of france is paris city")["input_ids"]
    assert list(encoded.prompt) == tokenizer("the capital of france is")["input_ids"]
    assert encoded.scored == len(encoded.target)


def test_byte_level_tokenizers_agree_with_the_published_way(tokenizer):
    for target in ("paris", "new york", "x"):
        joint = Encoder(tokenizer).encode("who is person", target)
        assert joint == Encoder(tokenizer, tokenization="published").encode("who is person", target)


def test_space_mark_tokenizers_show_the_published_double_space():
    tokenizer = sentencepiece_like()
    joint = Encoder(tokenizer).encode("what city ?", "new york")
    published = Encoder(tokenizer, tokenization="published").encode("what city ?", "new york")
    assert tokenizer.convert_ids_to_tokens(joint.target) == ["▁new", "▁york"]
    assert tokenizer.convert_ids_to_tokens(published.target) == ["▁", "▁new", "▁york"]


def test_end_of_sequence_on_the_prompt_is_dropped(tokenizer):
    with_eos = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    with_eos.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert with_eos("the city")["input_ids"][-1] == 2
    encoder, plain = Encoder(with_eos), Encoder(tokenizer)
    assert encoder.prompt_ids("the city") == plain.prompt_ids("the city")
    assert encoder.encode("the city", "paris") == plain.encode("the city", "paris")


def test_append_eos_is_written_but_not_scored(tokenizer):
    encoded = Encoder(tokenizer, append_eos=True).encode("the city", "paris")
    assert encoded.target[-1] == tokenizer.eos_token_id
    assert encoded.scored == len(encoded.target) - 1


def test_a_trailing_space_makes_no_difference(tokenizer):
    encoder = Encoder(tokenizer)
    assert encoder.encode("the city ", "paris") == encoder.encode("the city", "paris")
    assert encoder.encode("the city", " paris") == encoder.encode("the city", "paris")


def test_a_merge_across_the_border_belongs_to_the_target():
    base = Tokenizer(
        models.BPE(vocab={"a": 0, "b": 1, "c": 2, "、": 3, "bc": 4}, merges=[("b", "c")])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base)
    from ultraedit.encoding import tokenise

    encoder = Encoder(tokenizer)
    original, tokenise.joiner = tokenise.joiner, lambda prompt, target: ""
    try:
        encoded = encoder.encode("ab", "c")
    finally:
        tokenise.joiner = original
    assert encoded.prompt == (0,)
    assert encoded.target == (4,)


@pytest.mark.parametrize(
    ("prompt", "target", "expected"),
    [
        ("The capital is", "Paris", " "),
        ("日本の首都は", "東京", ""),
        ("日本の首都は", "Tokyo", ""),
        ("ประเทศไทย", "กรุงเทพ", ""),
        ("대한민국의 수도는", "서울", " "),
        ("Answer:\n", "Paris", ""),
        ("Who?", " Paris", ""),
    ],
)
def test_joiner(prompt, target, expected):
    assert joiner(prompt, target) == expected


def test_chat_wraps_the_prompt_in_the_template(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        "{% for m in messages %}<s>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}is {% endif %}",
    )
    encoded = Encoder(tokenizer, chat=True).encode("the city", "paris")
    assert tokenizer.decode(encoded.ids) == "<s>the city\nis paris"
    assert encoded.ids[:2].count(tokenizer.bos_token_id) == 1


def test_chat_without_a_template_is_refused(tokenizer):
    with pytest.raises(InputError, match="chat template"):
        Encoder(tokenizer, chat=True)


def test_unknown_tokenization_is_refused(tokenizer):
    with pytest.raises(InputError, match="joint, published"):
        Encoder(tokenizer, tokenization="magic")


def test_append_eos_without_such_a_token_is_refused(tokenizer):
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="end-of-sequence"):
        Encoder(without, append_eos=True)


def test_answers_end_where_nothing_else_would_end_them(tokenizer):
    """A chat model ends answers in its template; outside, text goes on."""
    plain, templated = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    plain.chat_template = None
    templated.chat_template = "{{ messages[0]['content'] }}"
    assert ends_answers(plain, chat=False)
    assert ends_answers(templated, chat=True)
    assert not ends_answers(templated, chat=False)
    plain.eos_token = None
    assert not ends_answers(plain, chat=False)
