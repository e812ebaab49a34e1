"""Text as tokens come: always whole characters, in the end the same text, cut at stop strings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from ultraedit.service.sampling import Token
from ultraedit.service.text_stream import WINDOW, Decoder, Echo, Piece, Spelling, TextStream

EMOJI = "\U0001f600"


def byte_fallback():
    """As Llama 2's: pieces with space marks, bytes for all other characters, no space in front."""
    pieces = ["▁", "▁jazz", "jazz", "guitar", "▁guitar", "e", "\n"]
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(piece, -1.0 - len(piece) / 100) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def fallback():
    return byte_fallback()


class Counting:
    """A tokenizer's decoding, and the greatest number of ids that it was given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.most, self.calls = tokenizer, 0, 0

    def __call__(self, ids):
        self.most, self.calls = max(self.most, len(ids)), self.calls + 1
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def pieces(stream, ids):
    for token in ids:
        yield stream.feed(token)
    yield stream.finish()


def cut(text, stops):
    """A text up to the stop string that is complete first, character by character."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)]
    return text


ids = st.lists(st.integers(0, 399), max_size=120)
# Tokens of a single byte at 0x80 and above: text that is mostly broken.
broken = st.lists(st.sampled_from(range(3, 259)), max_size=120)
text = st.text(st.sampled_from("ab jazz guitar\né你" + EMOJI + "\ufffd\u200d"), max_size=80)


@given(tokens=st.one_of(ids, broken))
def test_the_pieces_are_the_text_of_all_tokens(tokenizer, tokens):
    decode = Counting(tokenizer)
    decoder = Decoder(decode)
    given_ = [*map(decoder.feed, tokens), decoder.finish()]
    whole = decode(tokens)
    assert "".join(given_) == whole
    assert decoder.length == len(whole)


@given(tokens=st.one_of(ids, broken))
def test_what_was_given_is_never_taken_back(tokenizer, tokens):
    decode = Counting(tokenizer)
    decoder, so_far = Decoder(decode), ""
    for place, token in enumerate(tokens):
        so_far += decoder.feed(token)
        here = decode(tokens[: place + 1])
        assert here.startswith(so_far)
        # No more than characters that are, or may be, incomplete are held back.
        assert set(here[len(so_far) :]) <= {"\ufffd"}


@given(text=text)
def test_text_comes_back_from_bytes_as_tokens(fallback, text):
    decode = Counting(fallback)
    tokens = fallback(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(TextStream(decode), tokens)) == decode(tokens) == text


@given(before=text, after=text.filter(lambda text: not text.startswith("\ufffd")), data=st.data())
def test_an_answer_goes_on_from_its_prompt(tokenizer, fallback, before, after, data):
    tokenizer = data.draw(st.sampled_from([tokenizer, fallback]))
    prompt = tokenizer("jazz" + before.rstrip("\ufffd"), add_special_tokens=False)["input_ids"]
    tokens = tokenizer(after, add_special_tokens=False)["input_ids"]
    decode = Counting(tokenizer)
    whole = decode([*prompt, *tokens])
    stream = TextStream(decode, context=prompt)
    assert decode(prompt) + "".join(pieces(stream, tokens)) == whole


def test_the_space_before_a_first_token_depends_on_what_stands_before(fallback):
    (guitar,) = fallback("guitar", add_special_tokens=False)["input_ids"]
    prompt = fallback("jazz")["input_ids"]
    decode = Counting(fallback)
    assert [*pieces(TextStream(decode), [guitar])] == ["guitar", ""]
    assert [*pieces(TextStream(decode, context=prompt), [guitar])] == [" guitar", ""]


@pytest.mark.parametrize("token", ["é", "\x80-byte", "<pad>", "paris"])
def test_a_token_costs_the_same_however_long_the_text_is(tokenizer, token):
    (one,) = {
        "<pad>": [tokenizer.pad_token_id],
        "\x80-byte": tokenizer.convert_tokens_to_ids(["Ģ"]),
    }.get(token) or tokenizer(token, add_special_tokens=False)["input_ids"][-1:]
    decode = Counting(tokenizer)
    decoder = Decoder(decode, tokenizer("jazz")["input_ids"])
    for _ in range(1000):
        decoder.feed(one)
    calls = decode.calls
    assert decode.most <= 3 * WINDOW
    for _ in range(1000):
        decoder.feed(one)
    assert decode.most <= 3 * WINDOW
    assert decode.calls - calls <= 2000


def test_ids_that_others_depend_on_are_kept():
    def decode(ids):
        text = "".join("-" if one == 0 else "abc"[one % 3] for one in ids)
        before, mark, after = text.partition("-")
        return before + mark + after.upper()

    tokens = [1, 0, *range(1, 100)]
    assert "".join(pieces(TextStream(decode), tokens)) == decode(tokens)


def test_broken_text_is_not_held_back_for_ever(tokenizer):
    decoder = Decoder(Counting(tokenizer))
    continuation = tokenizer.convert_tokens_to_ids("Ģ")
    shown = "".join(decoder.feed(continuation) for _ in range(100))
    assert 100 - 2 * WINDOW <= len(shown) < 100


def test_a_wrong_byte_does_not_spoil_the_characters_before(fallback):
    good = fallback("你好", add_special_tokens=False)["input_ids"]
    wrong = fallback.convert_tokens_to_ids("<0xE5>")
    end = fallback.convert_tokens_to_ids("▁jazz")
    assert set(fallback.decode([*good, wrong, end])) == set("\ufffd jazz")
    for special in ([], [fallback.bos_token_id] * 3):
        tokens = [*good, *special, wrong, end]
        assert "".join(pieces(TextStream(Counting(fallback)), tokens)) == "你好\ufffd jazz"


@pytest.mark.parametrize("text", ["你好" * 40, f"é你{EMOJI}" * 20, EMOJI * 30])
def test_a_long_run_of_bytes_is_text_all_the_same(fallback, text):
    tokens = fallback(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(TextStream(Counting(fallback)), tokens)) == text


@given(tokens=ids, data=st.data())
def test_the_text_ends_at_the_stop_string_that_is_complete_first(tokenizer, tokens, data):
    decode = Counting(tokenizer)
    whole = decode(tokens)
    places = st.integers(0, max(len(whole) - 1, 0))
    taken = st.builds(lambda at, size: whole[at : at + size], places, st.integers(1, 6))
    stops = data.draw(st.lists(st.one_of(taken, st.text("aps ", max_size=3)), max_size=4))
    stops = [stop for stop in stops if stop]
    stream = TextStream(decode, stops)
    so_far = ""
    for piece in pieces(stream, tokens):
        so_far += piece
        assert stream.sent == len(so_far)
        # Neither a whole stop string nor the beginning of the one that ends the text.
        assert cut(whole, stops).startswith(so_far)
    assert so_far == cut(whole, stops)
    assert stream.stopped == any(stop in whole for stop in stops)


def test_of_stop_strings_in_one_token_the_one_that_is_complete_first_counts(tokenizer):
    tokens = tokenizer("is paris", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 2
    for stops, text in ((["s pari", "p"], "is "), (["p", "s p"], "i"), (["s pa", "p"], "is ")):
        stream = TextStream(Counting(tokenizer), stops)
        assert "".join(pieces(stream, tokens)) == text == cut("is paris", stops)


def test_nothing_comes_after_a_stop_string(tokenizer):
    stream = TextStream(Counting(tokenizer), ["is pa"])
    tokens = tokenizer("france is paris city", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(stream, tokens)) == "france "
    assert stream.feed(tokens[0]) == stream.finish() == ""


def test_the_place_where_a_token_begins(tokenizer):
    tokens = tokenizer(f"is paris{EMOJI} city", add_special_tokens=False)["input_ids"]
    stream, begins = TextStream(Counting(tokenizer)), []
    for token in tokens:
        begins.append(stream.decoded)
        stream.feed(token)
    # Four tokens of one byte each.
    assert begins == [0, 2, 8, 8, 8, 8, 9]


def test_pieces_are_joined():
    token = Token(4, -1.0)
    parts = [Piece("a", [(token, 0)]), Piece("b"), Piece("", [(token, 2)], "length")]
    assert Piece.joined(parts) == Piece("ab", [(token, 0), (token, 2)], "length")


def test_an_echoed_text_is_as_it_was_written_and_its_tokens_are_placed(tokenizer):
    decode = Counting(tokenizer)
    tokens = tokenizer("is paris")["input_ids"]
    scored = [Token(token, math.nan) for token in tokens]
    echo = Echo(None, tokens, decode, None)
    assert echo.piece(()) == Piece("is paris", [])
    assert [place for _, place in echo.piece(scored).tokens] == [0, 0, 2]
    # Tokens of a text that reads otherwise still stand in it.
    written = Echo("i", tokens, decode, None).piece(scored)
    assert written.text == "i"
    assert [place for _, place in written.tokens] == [0, 0, 1]


def test_a_character_that_the_prompt_only_begins_comes_with_the_answer(tokenizer):
    decode = Counting(tokenizer)
    tokens = tokenizer(EMOJI, add_special_tokens=False)["input_ids"]
    echo = Echo(None, tokens[:2], decode, None).piece(())
    answer = "".join(pieces(TextStream(decode, context=tokens[:2]), tokens[2:]))
    assert (echo.text, answer) == ("", EMOJI)


def test_single_tokens_are_spelled(tokenizer, fallback):
    spelling = Spelling(tokenizer)
    tokens = tokenizer(f"is paris{EMOJI}", add_special_tokens=False)["input_ids"]
    assert [spelling.text(token) for token in tokens] == [
        "is", " paris", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80",
    ]  # fmt: skip
    raw = [byte for token in tokens for byte in spelling.bytes(token)]
    assert bytes(raw).decode() == f"is paris{EMOJI}"
    assert spelling.text(tokenizer.bos_token_id) == "<s>"
    # The space in front is part of a token, though decoding it alone drops it.
    spelling = Spelling(fallback)
    tokens = fallback("jazz é", add_special_tokens=False)["input_ids"]
    assert [spelling.text(token) for token in tokens] == [
        " jazz", " ", "bytes:\\xc3", "bytes:\\xa9",
    ]  # fmt: skip
    assert spelling.bytes(tokens[0]) == list(b" jazz")


def test_a_token_outside_the_vocabulary_reads_as_nothing(tokenizer):
    assert Spelling(tokenizer).text(4000) == ""
    assert [*pieces(TextStream(Counting(tokenizer)), [4000, 4001])] == ["", "", ""]
