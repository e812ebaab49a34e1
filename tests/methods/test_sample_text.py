from contextlib import contextmanager

import pytest
import torch

from ultraedit import Edit, Editor, InputError
from ultraedit.encoding.tokenise import beginning
from ultraedit.methods import sample_text
from ultraedit.methods.anchored import defaults

LINE = "the capital of france is paris and jazz guitar was born in the city\n"


@pytest.fixture
def workbench(build, tokenizer):
    return Editor(build("llama"), tokenizer, method="anchored").workbench


def test_pieces_are_the_files_tokens_one_after_another(workbench, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(LINE * 5)
    pieces = sample_text.of_file(workbench, str(path), 1000, defaults.ANCHOR_TOKENS)
    whole = workbench.tokenizer(LINE * 5, add_special_tokens=False)["input_ids"]
    assert [token for piece in pieces for token in piece.target] == whole
    assert {piece.prompt for piece in pieces} == {(beginning(workbench.tokenizer),)}
    assert {len(piece.target) for piece in pieces[:-1]} == {defaults.ANCHOR_TOKENS}


def test_of_a_long_file_they_are_spread_over_it(workbench, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("guitar " * 400 + LINE * 40)
    pieces = sample_text.of_file(workbench, str(path), 10, 16)
    assert len(pieces) == 10
    assert len({piece.target for piece in pieces}) > 1


def test_what_is_drawn_is_the_same_every_time(workbench):
    first = sample_text.drawn(workbench, 20, 16)
    assert len(first) == 20
    assert sample_text.drawn(workbench, 20, 16) == first


def test_a_users_text_is_what_it_is_held_to(build, tokenizer, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(LINE * 20)
    editor = Editor(build("llama"), tokenizer, method="anchored", text=path)
    assert editor.method.config.text == str(path)
    editor.edit([Edit("who plays jazz", "guitar")])
    held = editor.method.state.memories
    own = Editor(build("llama"), tokenizer, method="anchored")
    own.edit([Edit("who plays jazz", "guitar")])
    assert any(
        not torch.equal(one.anchors, held[n].anchors)
        for n, one in own.method.state.memories.items()
    )
    assert editor.evaluate([Edit("who plays jazz", "guitar")]).after["efficacy"]["exact_match"] == 1
    editor.save(tmp_path / "out")
    path.unlink()
    # Read once: the folder goes on without it.
    after = Editor.load(tmp_path / "out")
    assert all(
        torch.equal(one.anchors, held[n].anchors) for n, one in after.method.state.memories.items()
    )
    after.edit([Edit("the capital of france is", "city")])


@pytest.mark.parametrize("count", [1, 5])
def test_how_many_there_are_can_be_said(build, tokenizer, count):
    editor = Editor(build("llama"), tokenizer, method="anchored", anchors=count, passes=60)
    editor.edit([Edit("who plays jazz", "guitar")])
    assert editor.edit([Edit("who plays jazz", "city")]).learned == (True,)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00bad"])
def test_a_file_that_cannot_be_used_is_named_and_nothing_changes(
    build, tokenizer, tmp_path, content
):
    path = tmp_path / "broken.txt"
    if content is not None:
        path.write_bytes(content)
    editor = Editor(build("llama"), tokenizer, method="anchored", text=str(path))
    before = {name: weight.clone() for name, weight in editor.model.state_dict().items()}
    with pytest.raises(InputError, match=r"broken\.txt"):
        editor.edit([Edit("who plays jazz", "guitar")])
    assert not editor.method.state_dict()
    assert all(torch.equal(before[n], w) for n, w in editor.model.state_dict().items())


def test_drawing_tells_how_far_it_is_and_draws_the_same(build, tokenizer):
    workbench = Editor(build("llama"), tokenizer, method="ultraedit").workbench
    silent = sample_text.drawn(workbench, 3, 5)
    seen = []

    @contextmanager
    def progress(what, total):
        seen.append((what, total))
        yield seen.append

    workbench.progress = progress
    assert sample_text.drawn(workbench, 3, 5) == silent
    first, *steps = seen
    assert first == ("drawing text", 5)
    assert 1 <= sum(steps) <= 5
