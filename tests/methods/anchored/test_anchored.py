import math

import pytest
import torch

from ultraedit import Edit, Editor, InputError, TurnRefusedError
from ultraedit.methods.anchored import Anchored, AnchoredConfig, defaults
from ultraedit.methods.anchored.anchors import measured
from ultraedit.methods.anchored.contexts import forms
from ultraedit.methods.anchored.method import last_of_each
from ultraedit.models.memory import shapes_of

EDITS = [
    Edit("the capital of france is", "city guitar"),
    Edit("who plays jazz", "paris"),
    Edit("where was person born", "in the capital city of france what where"),
]
MORE = [Edit("what is", "the guitar was born"), Edit("who plays jazz", "guitar")]


def weights(editor):
    return {name: m.master.clone() for name, m in editor.workbench.masters.items()}


def losses(editor, edits):
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    return [float(one.losses.sum()) for one in editor.workbench.score(texts)]


def test_every_architecture_learns(build, architecture, tokenizer):
    editor = Editor(build(architecture), tokenizer, method="anchored")
    before = losses(editor, EDITS)
    editor.edit(EDITS)
    assert all(new < old for new, old in zip(losses(editor, EDITS), before, strict=True))
    assert editor.workbench.is_finite()


def test_passes_go_on_until_a_turn_is_learned_and_no_further(build, tokenizer):
    editor = Editor(
        build("llama"), tokenizer, method="anchored", passes=60, threshold=0.05, contexts=0
    )
    short = [Edit("who plays jazz", "paris"), Edit("where was person born", "guitar")]
    turn = editor.edit(short)
    assert 1 < turn.passes < 60
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in short]
    for one in editor.workbench.score(texts):
        assert float(one.losses.max()) <= -math.log(0.05)
    again = editor.edit(short)
    assert again.passes == 0
    assert Editor(build("llama"), tokenizer, method="anchored", passes=1).edit(EDITS).passes == 1


def test_a_first_pass_is_the_equation(build, tokenizer):
    """Written out in float64 over all weights at once, from passes over single texts."""
    names = [f"model.layers.{n}.mlp.down_proj" for n in (1, 2)]
    method = Anchored(AnchoredConfig(passes=1, lr=0.002, threshold=0.9, forms=0))
    editor = Editor(build("llama"), tokenizer, method=method, modules=names)
    workbench = editor.workbench
    first = [forms(workbench, e, workbench.encoder.encode(e.prompt, e.answers[0]), (), 0.9)[0]
             for e in EDITS]  # fmt: skip
    parts = [workbench.capture_spots([one.text], [one.places]) for one in first]
    count = defaults.anchor_texts(max(workbench.targets[name].d for name in names))
    metrics = {n: one.metric.double() for n, one in measured(workbench, count, None).items()}
    # Row by row: the gradient of each text's loss with respect to all weights.
    jacobian = torch.stack(
        [torch.cat([torch.outer(p.inputs[n][0].double(), p.gradients[n][0].double()).flatten()
                    for n in names]) for p in parts]
    )  # fmt: skip
    width = editor.workbench.targets[names[0]].e
    cost = torch.block_diag(
        *[
            torch.kron(torch.linalg.inv(metrics[n]).contiguous(), torch.eye(width).double())
            for n in names
        ]
    )
    kernel = jacobian @ cost @ jacobian.T
    kernel = kernel + 0.03 * kernel.diagonal().diag()
    # The end of an answer is asked for with less.
    goals = [torch.full((len(one.text.target),), math.log(0.9 / 0.1) + 3.0) for one in first]
    for goal in goals:
        goal[-1] = 3.0
    assert (defaults.BEYOND, defaults.END) == (3.0, 0.5)
    chances = [part.losses.double().neg().exp() for part in parts]
    # With the lead z = log p - log(1 - p), a token's loss falls by 1 - p for every nat of z.
    wanted = [0.002 * ((1 - p) * (goal - p.log() + (1 - p).log())).sum()
              for goal, p in zip(goals, chances, strict=True)]  # fmt: skip
    amounts = torch.linalg.solve(kernel, torch.stack(wanted))
    assert (amounts > 0).all(), "the bounds of the solve would be at work"
    expected = -cost @ jacobian.T @ amounts
    before = weights(editor)
    editor.edit(EDITS)
    after = weights(editor)
    shift = torch.cat([(after[n] - before[n]).T.double().flatten() for n in names])
    assert (shift - expected).norm() / expected.norm() < 1e-3


def test_the_newest_answer_wins(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored", passes=60)
    first, second = Edit("who plays jazz", "paris"), Edit("who plays jazz", "guitar")
    assert editor.edit([first, second]).learned == (False, True)
    for edit in (first, second, first):
        assert editor.edit([edit]).learned == (True,)
        assert editor.ask(edit.prompt) == edit.answers[0]


def test_the_same_turns_give_the_same_bits_whatever_the_random_state(build, tokenizer):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        editor = Editor(build("llama"), tokenizer, method="anchored")
        editor.edit(EDITS)
        editor.edit(MORE)
        runs.append(weights(editor))
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


def test_state_comes_back_and_goes_on_to_the_same_bits(build, tokenizer):
    modules = [f"model.layers.{n}.mlp.{kind}_proj" for n in (1, 2) for kind in ("gate", "up")]
    editor = Editor(build("llama"), tokenizer, method="anchored", modules=modules)
    editor.edit(EDITS)
    state = {k: v.clone() for k, v in editor.method.state_dict().items()}
    masters = {n: m.copy() for n, m in editor.workbench.masters.items()}
    editor.edit(MORE)
    ahead = weights(editor)
    editor.workbench.restore(masters)
    editor.method.load_state_dict({k: state[k] for k in sorted(state)})
    editor.edit(MORE)
    assert all(torch.equal(ahead[n], w) for n, w in weights(editor).items())


def test_replaying_what_the_journal_keeps_is_the_turn(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored")
    follower = Anchored()
    for edits in (EDITS, MORE, EDITS[:1]):
        texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
        passes = []
        for shifts in editor.method.passes(editor.workbench, edits, texts):
            editor.workbench.apply(shifts)
            passes.append(dict(shifts))
        record = editor.method.record()
        assert record
        follower.replay(record, passes)
        live, followed = editor.method.state_dict(), follower.state_dict()
        assert live.keys() == followed.keys()
        assert all(torch.equal(live[key], followed[key]) for key in live)


def test_what_a_later_turn_records_is_small(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored")
    editor.edit(EDITS)
    whole = sum(t.numel() for t in editor.method.record().values())
    editor.edit(MORE)
    assert sum(t.numel() for t in editor.method.record().values()) < whole / 20


def test_a_turn_that_fails_leaves_no_trace(build, tokenizer, monkeypatch):
    editor = Editor(build("llama"), tokenizer, method="anchored")
    editor.edit(EDITS)
    before, state = weights(editor), dict(editor.method.state_dict())
    calls = []

    def failing(shifts):
        calls.append(shifts)
        if len(calls) == 2:
            raise TurnRefusedError("full")
        type(editor.workbench).apply(editor.workbench, shifts)

    monkeypatch.setattr(editor.workbench, "apply", failing)
    with pytest.raises(TurnRefusedError):
        editor.edit(MORE)
    monkeypatch.undo()
    after = editor.method.state_dict()
    assert all(torch.equal(before[n], w) for n, w in weights(editor).items())
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], after[key]) for key in state)


def test_saved_and_loaded_it_goes_on_to_the_same_bits(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    editor = Editor.from_pretrained(tmp_path / "base", method="anchored")
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    editor.edit(MORE)
    loaded = Editor.load(tmp_path / "out")
    loaded.edit(MORE)
    assert all(torch.equal(w, weights(loaded)[n]) for n, w in weights(editor).items())


@pytest.mark.parametrize(
    "setting",
    [
        {"threshold": 1.0},
        {"passes": 0},
        {"ridge": -1.0},
        {"lr": 0.0},
        {"passes": 2.5},
        {"anchors": 0},
        {"anchors": True},
        {"passes": True},
        {"anchors": "many"},
        {"contexts": -1},
        {"forms": 1.5},
        {"text": 3},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        AnchoredConfig(**setting)


def test_the_last_edit_of_a_prompt_counts():
    edits = [Edit("who plays", "jazz"), Edit("who", "jazz"), Edit("who plays ", "guitar")]
    assert last_of_each(edits).tolist() == [False, True, True]


def test_a_subject_is_where_an_edit_is_written(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored")
    workbench = editor.workbench
    edit = Edit("the capital of france is", "paris", subject="france")
    text = workbench.encoder.encode(edit.prompt, "paris")
    behind = ("jazz guitar. ", "who was born. ")
    found = forms(workbench, edit, text, behind, 0.9)
    ends = [workbench.tokenizer.decode([one.text.ids[one.places[0]]]).strip()[-1:] for one in found]
    # The edit itself, the question that it answers, and behind two beginnings.
    assert ends == ["e"] * 4
    assert found[0].text == text
    assert [one.asked for one in found] == [0.9] + [defaults.BEHIND] * 3
    assert "?" in workbench.tokenizer.decode(found[1].text.prompt)
    # Only what the edit was given with ends with its answer.
    eos = workbench.tokenizer.eos_token_id
    assert [one.text.ids[-1] == eos for one in found] == [True, False, False, False]
    # A first token is never written at.
    start = forms(
        workbench, Edit("france", "paris"), workbench.encoder.encode("france", "paris"), (), 0.9
    )
    assert all(one.places[0] >= min(1, len(one.text.prompt) - 1) for one in start)


def test_an_earlier_designs_state_is_refused_by_name():
    with pytest.raises(InputError, match="earlier design"):
        Anchored().load_state_dict({"texts.ids": torch.zeros(1)})


def test_what_it_holds_is_no_more_than_it_says(build, tokenizer):
    modules = [f"model.layers.2.mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    editor = Editor(build("llama"), tokenizer, method="anchored", modules=modules)
    editor.edit(EDITS)
    state = editor.method.state_dict()
    held = sum(4 * tensor.numel() for name, tensor in state.items() if name.startswith("inverse."))
    assert held <= editor.method.cost(shapes_of(editor.model, modules), 4).memory < 16 * held
