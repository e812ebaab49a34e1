import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from ultraedit import InputError
from ultraedit.encoding.subject import last_token, subject_end
from ultraedit.encoding.tokenise import Encoder

TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }} what{% endfor %}"


@pytest.mark.parametrize(
    ("prompt", "subject", "before"),
    [
        ("who was Iran's king of Iran in", "Iran", "who was Iran's king of Iran"),
        ("an Iranian of Iran, Iranian", "Iran", "an Iranian of Iran"),
        ("the Iranians of", "Iran", "the Iran"),
        ("the IRAN of", "Iran", "the IRAN"),
        ("is C++ a", " C++ ", "is C++"),
        ("東京の人口は", "東京", "東京"),
    ],
)
def test_the_last_whole_word_counts_then_any_then_any_case(prompt, subject, before):
    assert prompt[: subject_end(prompt, subject)] == before


def test_a_prompt_without_the_subject_is_refused():
    for subject in ("jazz", " "):
        with pytest.raises(InputError, match="not in its prompt 'who was'"):
            subject_end("who was", subject)


class Slow:
    """The same tokenizer, without offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self.own = tokenizer
        self.eos_token_id = tokenizer.eos_token_id

    def __call__(self, text, **options):
        assert "return_offsets_mapping" not in options
        return self.own(text, **options)


PROMPTS = [
    ("  the capital of france is ", "capital"),
    ("the capital of france", "france"),
    ("person", "person"),
    ("who plays jazzé guitar", "jazzé"),
    ("who is 東京 what", "東京"),
]


@pytest.mark.parametrize(("prompt", "subject"), PROMPTS)
def test_the_token_holds_the_subjects_last_character(tokenizer, prompt, subject):
    encoder = Encoder(tokenizer)
    end = subject_end(prompt, subject)
    place = last_token(encoder, prompt, end)
    ids = encoder.prompt_ids(prompt)
    # By decoding, which knows nothing of offsets: the first prefix that holds it all.
    held = [n for n in range(len(ids)) if prompt[:end].lstrip() in tokenizer.decode(ids[: n + 1])]
    assert place == held[0]
    assert last_token(Encoder(Slow(tokenizer)), prompt, end) == place


def test_a_subject_that_the_tokenizer_drops_is_refused():
    letters = Tokenizer(BPE({letter: place for place, letter in enumerate("isg")}, []))
    letters.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="g")
    for tokenizer in (fast, Slow(fast)):
        with pytest.raises(InputError, match="no token of the prompt '東京 is'"):
            last_token(Encoder(tokenizer), "東京 is", 2)
        assert last_token(Encoder(tokenizer), "is 東京", 5) == 1


def test_inside_a_chat_template_it_is_the_same_word(tokenizer):
    chat = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template=TEMPLATE, eos_token="</s>"
    )
    encoder = Encoder(chat, chat=True)
    prompt = "the capital of france is"
    place = last_token(encoder, prompt, subject_end(prompt, "france"))
    ids = encoder.prompt_ids(prompt)
    assert chat.decode(ids[: place + 1]).endswith("capital of france")
    shout = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>",
        chat_template="{{ messages[0]['content'] | upper }}",
    )  # fmt: skip
    with pytest.raises(InputError, match="does not hold the prompt"):
        last_token(Encoder(shout, chat=True), prompt, 5)
