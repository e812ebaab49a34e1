"""One editor that several threads use."""

from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import pytest
import torch

from ultraedit import Edit, Editor
from ultraedit.linalg.threads import threads

TURNS = [
    [Edit("the capital of france is", "guitar"), Edit("who plays jazz", "paris")],
    [Edit("the capital of france is", "person"), Edit("in city", "what")],
    [Edit("the capital of france is", "born"), Edit("who was", "city")],
]
PROMPTS = ["the capital of france is", "jazz guitar was", "who plays"]


@pytest.fixture
def editor(build, tokenizer, method, quick):
    return Editor(build("llama"), tokenizer, method=method, **quick(method))


def within(context):
    with context:
        pass


def weights(editor):
    return [master.parameter.detach().clone() for master in editor.workbench.masters.values()]


def test_whoever_asks_while_another_thread_edits_sees_whole_turns(editor, tmp_path):
    """Also by calling the model directly, as long as the lock is held."""
    states, seen, over = [weights(editor)], [], Event()

    def look():
        while not over.is_set():
            with editor.lock:
                seen.append((weights(editor), [editor.ask(prompt, 3) for prompt in PROMPTS]))

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        for turn in TURNS:
            editor.edit(turn)
            with editor.lock:
                states.append(weights(editor))
        over.set()
        looking.result()
    assert seen
    for found, _ in seen:
        assert any(
            all(torch.equal(a, b) for a, b in zip(found, state, strict=True)) for state in states
        )


def test_threads_that_edit_take_turns(editor):
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(editor.edit, TURNS))
    assert sorted(turn.index for turn in made) == [0, 1, 2]
    assert (editor.turns, editor.edits) == (3, 6)


@pytest.mark.parametrize(
    "use",
    [
        lambda editor, out: editor.edit(TURNS[1]),
        lambda editor, out: editor.look_ahead(TURNS[1]),
        lambda editor, out: editor.ask(PROMPTS[0], 2),
        lambda editor, out: editor.evaluate(TURNS[0]),
        lambda editor, out: within(editor.unedited()),
        lambda editor, out: editor.save(out),
        lambda editor, out: editor.undo(to=0),
    ],
    ids=["edit", "look_ahead", "ask", "evaluate", "unedited", "save", "undo"],
)
def test_every_use_waits_for_the_lock(build, tokenizer, tmp_path, use):
    editor = Editor(build("llama"), tokenizer, method="ultraedit", lr=0.05)
    editor.edit(TURNS[0])
    editor.save(tmp_path)
    began = Event()

    def other():
        began.set()
        return use(editor, tmp_path)

    with ThreadPoolExecutor() as pool:
        with editor.lock:
            waiting = pool.submit(other)
            began.wait()
            # All of them take milliseconds here.
            assert not wait([waiting], timeout=1).done
        waiting.result()


def test_a_thread_inside_unedited_keeps_the_others_out(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit", lr=0.05)
    base = weights(editor)
    editor.edit(TURNS[0])
    with ThreadPoolExecutor() as pool, editor.unedited():
        asked = pool.submit(editor.edit, TURNS[1])
        assert all(torch.equal(a, b) for a, b in zip(weights(editor), base, strict=True))
        assert not asked.done()
    assert asked.result().index == 1


def test_the_callers_number_of_threads_stays(build, tokenizer, tmp_path):
    before = torch.get_num_threads()
    with threads(before + 1):
        editor = Editor(build("llama"), tokenizer, method="ultraedit", lr=0.05)
        editor.edit(TURNS[0])
        editor.save(tmp_path)
    again = Editor.load(tmp_path)
    assert torch.get_num_threads() == before
    assert again.threads == again.settings()["threads"] == before + 1
    again.edit(TURNS[1])
    assert torch.get_num_threads() == before
