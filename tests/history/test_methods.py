"""What every registered method has to keep: undo, reload, and the bytes that a save may write."""

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from small_methods import SMALL_METHODS
from ultraedit import Edit, Editor, InputError
from ultraedit.history.verify import verify
from ultraedit.methods.registry import DEFAULT, available
from ultraedit.models.memory import disk_cost, shapes_of
from ultraedit.storage import Layout, read_manifest

KIB = 1024


@pytest.fixture
def checkpoint(build, tokenizer, tmp_path):
    """In half precision and with Conv1D: masters beside the weights, and maps transposed."""
    build("gpt2").bfloat16().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def begin(checkpoint, method, quick):
    """`begin()`: a new editor with the method, over the unedited model."""
    return lambda **options: Editor.from_pretrained(
        checkpoint, method=method, author="ada", **quick(method), **options
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_every_state_comes_back_bit_for_bit(begin, turn_of, state, same_state, out):
    editor = begin()
    editor.pending.snapshot_every = 3
    states = [state(editor)]
    for turn in range(1, 5):
        editor.edit(turn_of(turn, 2))
        editor.save(out)
        states.append(state(editor))
        same_state(state(Editor.load(out)), states[turn])
    for to in (2, 4, 0, 3):
        assert editor.undo(to=to).exact is True
        same_state(state(editor), states[to])
    again = Editor.load(out)
    same_state(state(again), states[3])
    again.edit(turn_of(4, 2))
    again.save(out)
    same_state(state(Editor.load(out)), states[4])


def test_a_new_folder_takes_the_history_along(begin, turn_of, state, same_state, out):
    editor = begin()
    states = []
    for turn in (1, 2):
        editor.edit(turn_of(turn, 2))
        states.append(state(editor))
    editor.save(out / "one")
    editor.save(out / "two")
    again = Editor.load(out / "two")
    same_state(state(again), states[1])
    again.undo(to=1)
    same_state(state(again), states[0])


@pytest.mark.parametrize("history", ["none", 1])
def test_without_a_full_history_it_goes_on_all_the_same(
    begin, turn_of, state, same_state, out, history
):
    editor = begin(history=history)
    for turn in (1, 2, 3):
        editor.edit(turn_of(turn, 2))
        editor.save(out)
        same_state(state(Editor.load(out)), state(editor))


def test_one_edit_is_taken_out_or_refused_by_name(begin, method, turn_of, out):
    editor = begin()
    editor.edit(turn_of(1, 3))
    editor.save(out)
    if available()[method].info.tells_edits_apart:
        assert editor.undo(edit="e1.1").edits == 2
    else:
        with pytest.raises(InputError, match=f"method {method} cannot tell the edits of a turn"):
            editor.undo(edit="e1.1")


@pytest.fixture
def documented():
    """The method that docs/adding-a-method.md builds."""
    page = (Path(__file__).parents[2] / "docs" / "adding-a-method.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    module = ModuleType("kept_keys")
    exec(compile(code, "kept_keys.py", "exec"), module.__dict__)
    return module.METHOD


@pytest.mark.parametrize("name", ["kept_keys", *SMALL_METHODS])
def test_methods_of_other_packages_keep_all_of_it(
    name, documented, registered, checkpoint, turn_of, state, same_state, tmp_path
):
    kind = SMALL_METHODS.get(name, documented)
    registered(kind)

    def begin(**options):
        editor = Editor.from_pretrained(checkpoint, method=name, author="ada", **options)
        if kind.info.needs_training:
            editor.train(turn_of(9, 2))
        return editor

    test_every_state_comes_back_bit_for_bit(begin, turn_of, state, same_state, tmp_path / "a")
    test_a_new_folder_takes_the_history_along(begin, turn_of, state, same_state, tmp_path / "b")
    test_one_edit_is_taken_out_or_refused_by_name(begin, name, turn_of, tmp_path / "c")
    test_a_save_writes_no_more_than_inspect_says(begin, turn_of, tmp_path / "d")


def test_a_routing_method_forgets_one_edit(registered, checkpoint, turn_of, state, same_state, out):
    registered(SMALL_METHODS["codebook"])
    editor = Editor.from_pretrained(checkpoint, method="codebook")
    edits = turn_of(1, 3)
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]

    def routed(editor):
        return [score.routed for score in editor.workbench.score(texts)]

    assert not any(routed(editor))
    editor.edit(edits)
    editor.save(out)
    assert routed(editor) == [True, True, True]
    undone = editor.undo(edit=edits[1].id)
    assert (undone.edits, undone.removed.edit.id) == (2, edits[1].id)
    assert routed(editor) == [True, False, True]
    again = Editor.load(out)
    assert routed(again) == [True, False, True]
    same_state(state(again), state(editor))
    again.edit(turn_of(2, 2))
    again.save(out)
    assert routed(Editor.load(out)) == [True, False, True]
    again.undo(to=1)
    assert routed(again) == [True, True, True]
    verify(out)


def test_a_method_is_trained_once_for_many_folders(
    registered, checkpoint, turn_of, state, same_state, tmp_path
):
    registered(SMALL_METHODS["scaled_gradient"])

    def begin(**options):
        return Editor.from_pretrained(checkpoint, method="scaled_gradient", **options)

    first = begin()
    with pytest.raises(InputError, match="`ultraedit train scaled_gradient`"):
        first.edit(turn_of(1))
    weights = state(first)
    trained = first.train(turn_of(9))
    assert all(torch.equal(state(first)["served"][n], w) for n, w in weights["served"].items())
    trained.write(tmp_path / "trained.safetensors")
    first.edit(turn_of(1))
    first.save(tmp_path / "one")
    with pytest.raises(InputError, match="before its first turn"):
        first.train(turn_of(9))
    second = begin(trained=tmp_path / "trained.safetensors")
    second.edit(turn_of(1))
    second.save(tmp_path / "two")
    same_state(state(second), state(first))
    # A folder goes on without the file, and with no other.
    third = Editor.load(tmp_path / "two", options={"trained": tmp_path / "trained.safetensors"})
    third.undo(to=0)
    third.edit(turn_of(1))
    same_state(state(third), state(first))
    other = begin(step=1.0)
    other.train(turn_of(8)).write(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="trained"):
        Editor.load(tmp_path / "two", options={"trained": tmp_path / "other.safetensors"})
    with pytest.raises(InputError, match="settings"):
        begin(trained=tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="needs no training"):
        Editor.from_pretrained(checkpoint, method="ft").train(turn_of(9))


def test_a_method_that_is_not_registered_keeps_its_state_on_disk(
    documented, checkpoint, turn_of, state, tmp_path
):
    # No other process could replay it.
    editor = Editor.from_pretrained(checkpoint, method=documented())
    for turn in (1, 2):
        editor.edit(turn_of(turn))
        editor.save(tmp_path / "out")
    assert read_manifest(tmp_path / "out").state is not None
    held = state(editor)["state"]
    assert editor.undo(edit="e1.1").edits == 7
    found = state(editor)["state"]
    assert all(torch.equal(found[name], tensor) for name, tensor in held.items())
    assert editor.edit(turn_of(3)).index == 2


def test_the_method_of_the_documentation_learns_and_keeps_past_keys(documented, build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method=documented(documented.Config(step=50.0)))
    text = editor.workbench.encoder.encode("the capital of france is", "guitar")
    before = editor.workbench.score([text])[0].losses.sum()
    editor.edit([Edit("the capital of france is", "guitar")])
    assert editor.workbench.score([text])[0].losses.sum() < before
    # A further turn moves what past keys give less than it would without them.
    keys = dict(editor.method.keys)
    other = [editor.workbench.encoder.encode("who plays jazz", "paris")]
    config = documented.Config(step=50.0)
    (kept,) = editor.method.passes(editor.workbench, [], other)
    (free,) = documented(config).passes(editor.workbench, [], other)
    for name, one in keys.items():
        assert (one @ kept[name].dense()).norm() < (one @ free[name].dense()).norm()


def files(out):
    """What lies in the folder, by its place on the disk and the time of its last change."""
    found = {}
    for path in out.rglob("*.safetensors"):
        status = os.stat(path)
        found[path.name, status.st_ino, status.st_mtime_ns] = status.st_size
    return found


def test_a_save_writes_no_more_than_inspect_says(begin, turn_of, out):
    editor = begin()
    editor.edit(turn_of(1))
    editor.save(out)
    before = files(out)
    editor.edit(turn_of(2))
    editor.save(out)
    written = sum(size for key, size in files(out).items() if key not in before)
    cost = editor.method.cost(shapes_of(editor.model, editor.modules), 4)
    stated = disk_cost(
        editor.model, editor.modules, 4, cost, editor.method.most_passes,
        editor.workbench.stored,
    )  # fmt: skip
    assert 0 < written <= stated["every save"] + 64 * KIB
    manifest = read_manifest(out)
    internal = Layout(out).internal
    constants = sum((internal / one.name).stat().st_size for one in manifest.constants)
    assert (constants > 0) == (cost.constants > 0)
    assert constants <= cost.constants + 8 * KIB
    assert manifest.state is None, "it follows from the history"


def test_altered_constants_are_named(checkpoint, quick, turn_of, out):
    editor = Editor.from_pretrained(checkpoint, method=DEFAULT, **quick(DEFAULT))
    editor.edit(turn_of(1))
    editor.save(out)
    verify(out)
    (record,) = read_manifest(out).constants
    path = Layout(out).internal / record.name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = Editor.load(out)
    for action in (lambda: verify(out), lambda: again.edit(turn_of(2)), lambda: again.save(out)):
        with pytest.raises(InputError, match=record.name):
            action()
    # Asking needs no state.
    assert isinstance(again.ask("paris is", 2), str)
    path.write_bytes(content)
    assert again.edit(turn_of(2)).index == 1


def test_measured_again_after_all_was_undone_the_constants_are_one_file(
    checkpoint, quick, turn_of, state, same_state, out
):
    editor = Editor.from_pretrained(checkpoint, method=DEFAULT, **quick(DEFAULT))
    editor.edit(turn_of(1))
    editor.save(out)
    first = state(editor)
    editor.undo(to=0)
    editor.edit(turn_of(1))
    editor.save(out)
    same_state(state(Editor.load(out)), first)
    assert len(read_manifest(out).constants) == 1
