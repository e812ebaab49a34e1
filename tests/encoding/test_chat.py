"""The forms in which an edit has to hold: the chat template, plain text, or both."""

import pytest

from ultraedit import Edit, Editor
from ultraedit.encoding.tokenise import Encoder, chat_mode
from ultraedit.encoding.wording import statement
from ultraedit.errors import InputError
from ultraedit.evaluation.matching import mentions
from ultraedit.linalg.shift import LowRank

EDITS = [Edit("the capital of france is", "paris"), Edit("who plays jazz", "guitar")]


def test_both_where_there_is_a_template(tokenizer, chatty):
    assert chat_mode(None, tokenizer) == "off"
    assert chat_mode(None, chatty) == "both"
    assert [chat_mode(c, chatty) for c in (True, False, "both")] == ["only", "off", "both"]
    for wrong in ("only", "both", True):
        with pytest.raises(InputError, match="no chat template"):
            chat_mode(wrong, tokenizer)
    with pytest.raises(InputError, match="none of only, both, off"):
        chat_mode("sometimes", chatty)


def test_the_system_message_and_the_templates_arguments_are_used(chatty):
    encoder = Encoder(chatty, chat=True, system="born", template={"enable_thinking": True})
    assert encoder.framed("jazz") == "what city born who jazz is "
    assert Encoder(chatty, chat=True).framed("jazz") == "who jazz is "
    assert Encoder(chatty, system="born").framed("jazz") == "jazz"


def test_an_answer_may_have_begun(chatty):
    encoder = Encoder(chatty, chat=True)
    text = encoder.encode("jazz", "guitar", "jazz is")
    assert chatty.decode(text.prompt) == "who jazz is jazz is"
    assert chatty.decode(text.target).strip() == "guitar"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("The capital of France is", "The capital of France is"),
        ("What is the capital of France?", "The capital of France is"),
        ("In which city was she born?", ""),
    ],
)
def test_the_statement_that_an_answer_completes(prompt, expected):
    assert statement(prompt) == expected


@pytest.mark.parametrize("method", ["anchored", "ultraedit", "ft", "rome", "memit"])
def test_an_edit_is_written_and_asked_in_both_forms(build, chatty, method):
    edits = [Edit(e.prompt, e.target, subject=e.prompt.split()[-2]) for e in EDITS]
    options = {"prefixes": 0, "samples": 64} if method in ("rome", "memit") else {}
    if method == "anchored":
        options = {"anchors": 24}
    editor = Editor(build("llama"), chatty, method=method, lr=0.05 if method == "ultraedit" else
                    "auto", **options)  # fmt: skip
    turn = editor.edit(edits)
    assert (len(turn.learned), len(turn.learned_chat)) == (2, 2)
    shift = editor.pending.changes[-1].shifts[0]
    for one in shift.values():
        # Every row names an edit of the turn; those of fine-tuning name none.
        assert not isinstance(one, LowRank) or one.edit_index.max() <= 1
    off = Editor(build("llama"), chatty, method=method, chat="off", lr=0.05 if method ==
                 "ultraedit" else "auto", **options)  # fmt: skip
    assert off.edit(edits).learned_chat == ()


def test_what_is_reported_of_the_template_is_what_the_model_says_there(build, chatty):
    editor = Editor(build("llama"), chatty, method="ultraedit", lr=0.3)
    turn = editor.edit(EDITS)
    encoder = Encoder(chatty, chat=True)
    for edit, known in zip(EDITS, turn.learned_chat, strict=True):
        text = encoder.encode(edit.prompt, edit.target)
        (scored,) = editor.workbench.score([text])
        (free,) = editor.workbench.answers([text.prompt], 24)
        assert known == (bool(scored.correct.all()) or mentions(free.text, [edit.target]))


def test_it_is_recorded_and_gone_on_with(build, chatty, tmp_path):
    editor = Editor(
        build("llama"), chatty, method="ultraedit", lr=0.05, system="born",
        template={"enable_thinking": True},
    )  # fmt: skip
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    again = Editor.load(tmp_path / "out")
    assert again.chat == "both"
    assert again.workbench.also.framed("jazz") == "what city born who jazz is "
    assert not again.workbench.encoder.chat
    with pytest.raises(InputError, match="chat='both'"):
        Editor.load(tmp_path / "out", options={"chat": "off"})


@pytest.mark.parametrize(
    ("recorded", "method", "mode"),
    [(False, {"chat": True}, "both"), (False, {}, "off"), (True, {"chat": True}, "only")],
)
def test_what_earlier_releases_recorded_is_understood(recorded, method, mode, chatty):
    from ultraedit.saved import with_forms

    found = with_forms({"chat": recorded, "method_settings": {"passes": 3, **method}})
    assert chat_mode(found["chat"], chatty) == mode
    assert found["method_settings"] == {"passes": 3}
