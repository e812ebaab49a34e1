import pytest

from ultraedit import Edit
from ultraedit.methods.locate.contexts import by_edit, essence, located, prefixes


def subject_of(workbench, one):
    return workbench.tokenizer.decode(one.text.ids[: one.place + 1])


def test_prefixes_are_the_unedited_models_and_always_the_same(make, edits):
    editor = make("rome")
    first = prefixes(editor.workbench, 5)
    assert first[0] == ""
    assert len(first) == 6
    assert all(words.endswith(". ") for words in first[1:])
    editor.edit(edits)
    assert prefixes(editor.workbench, 5) == first
    assert prefixes(editor.workbench, 0) == [""]
    assert len(prefixes(editor.workbench, 1)) == 2


def test_the_subject_is_found_behind_a_prefix(make, edits):
    workbench = make("rome").workbench
    for words in ("", "france is what. "):
        one = located(workbench, edits[0], "subject_last", words)
        assert subject_of(workbench, one).endswith(words + "the capital of france")
        assert workbench.tokenizer.decode(one.text.prompt).endswith("of france is")
        last = located(workbench, edits[0], "last", words)
        assert last.place == len(last.text.prompt) - 1
        assert last.text == one.text


def test_what_the_subject_is_says_one_more_token(make, edits):
    workbench = make("rome").workbench
    one = essence(workbench, edits[0], "subject_last")
    assert workbench.tokenizer.decode(one.text.prompt).endswith("france is a")
    assert subject_of(workbench, one).endswith("france")
    assert len(one.text.target) == 1
    assert essence(workbench, edits[0], "last").place == len(one.text.prompt) - 1


def test_a_prefix_that_leaves_no_room_is_left_out(make, build, tokenizer):
    workbench = make("rome").workbench
    edit = Edit("who " * 58 + "person", "paris", "person")
    (own,) = by_edit(workbench, [edit], "subject_last", ["", "city " * 10])
    assert len(own) == 1


@pytest.mark.parametrize("prompt", ["who", "who is person"])
def test_a_subject_at_the_very_end_is_before_its_answer(make, prompt):
    one = located(make("rome").workbench, Edit(prompt, "paris", prompt.split()[-1]), "subject_last")
    assert one.place == len(one.text.prompt) - 1
