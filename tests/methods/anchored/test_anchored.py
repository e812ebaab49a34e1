import math

import pytest
import torch

from ultraedit import Edit, Editor, InputError, TurnRefusedError
from ultraedit.core.loss import choice_lead_gradient
from ultraedit.methods.anchored import Anchored, AnchoredConfig, derive
from ultraedit.methods.anchored.method import last_of_each, leads
from ultraedit.models.memory import shapes_of

EDITS = [
    Edit("the capital of france is", "city guitar"),
    Edit("who plays jazz", "paris"),
    Edit("where was person born", "in the capital city of france what where"),
]
MORE = [Edit("what is", "the guitar was born"), Edit("who plays jazz", "guitar")]


def weights(editor):
    return {name: m.master.clone() for name, m in editor.bench.masters.items()}


def losses(editor, edits):
    texts = [editor.bench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    return [float(one.losses.sum()) for one in editor.bench.score(texts)]


def test_every_architecture_learns(build, architecture, tokenizer):
    editor = Editor(build(architecture), tokenizer, method="anchored")
    before = losses(editor, EDITS)
    editor.edit(EDITS)
    assert all(new < old for new, old in zip(losses(editor, EDITS), before, strict=True))
    assert editor.bench.is_finite()


def test_passes_go_on_until_a_turn_is_learned_and_no_further(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored", passes=60, threshold=0.25)
    turn = editor.edit(EDITS[:2])
    assert all(turn.learned)
    assert 1 < turn.passes < 60
    again = editor.edit(EDITS[:2])
    assert again.passes == 0
    assert Editor(build("llama"), tokenizer, method="anchored", passes=1).edit(EDITS).passes == 1


def test_a_first_pass_is_the_equation(build, tokenizer):
    """Written out in float64 over all weights at once, from passes over single texts."""
    name = "model.layers.2.mlp.down_proj"
    method = Anchored(AnchoredConfig(passes=1, lr=0.2, threshold=0.9))
    editor = Editor(build("llama"), tokenizer, method=method, modules=[name])
    bench = editor.bench
    texts = [bench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    parts = [bench.capture([text])[name] for text in texts]
    falls = [part.inputs.double().T @ part.gradients.double() for part in parts]
    chances = [part.losses.double().neg().exp() for part in parts]
    drawn = bench.sample(24, derive.ANCHOR_TOKENS, 3)
    parts = [bench.capture([text], choice_lead_gradient)[name] for text in drawn]
    h = torch.cat([part.inputs[1:] for part in parts]).double()
    m = torch.cat([part.gradients[1:] for part in parts]).double()
    sure = torch.cat([part.losses[1:] for part in parts]).double().neg().exp()
    second = h.T * sure @ h / sure.sum()
    metric = second + derive.FLOOR * second.diagonal().mean() * torch.eye(len(second))
    curvature = m.T * sure @ m / sure.sum()
    curvature = curvature + derive.DAMPING * curvature.diagonal().mean() * torch.eye(len(curvature))
    # The shift does not depend on the scale of either metric.
    cost = torch.kron(torch.linalg.inv(metric), torch.linalg.inv(curvature))
    jacobian = torch.stack(falls).flatten(1)
    kernel = jacobian @ cost @ jacobian.T
    kernel = kernel + 0.03 * kernel.diagonal().diag()
    goal = math.log(0.9 / 0.1) + derive.BEYOND
    # With the lead z = log p - log(1 - p), a token's loss falls by 1 - p for every nat of z.
    wanted = [0.2 * ((1 - p) * (goal - p.log() + (1 - p).log())).sum() for p in chances]
    expected = -cost @ jacobian.T @ torch.linalg.solve(kernel, torch.stack(wanted))
    before = weights(editor)[name]
    editor.edit(EDITS)
    shift = (weights(editor)[name] - before).T.double().flatten()
    assert (shift - expected).norm() / expected.norm() < 1e-3


def test_the_newest_answer_wins(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored", passes=60)
    first, second = Edit("who plays jazz", "paris"), Edit("who plays jazz", "guitar")
    assert editor.edit([first, second]).learned == (False, True)
    for edit in (first, second, first):
        assert editor.edit([edit]).learned == (True,)
        assert editor.ask(edit.prompt) == edit.answers[0]


def test_editing_a_fact_back_brings_the_first_answer_back(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored", passes=60)
    original = editor.ask("who plays jazz", max_new_tokens=2)
    editor.edit([Edit("who plays jazz", "paris")])
    assert editor.ask("who plays jazz") == "paris"
    editor.edit([Edit("who plays jazz", original)])
    assert editor.ask("who plays jazz", max_new_tokens=2) == original


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
    # Gate and up of one block are given the same inputs, and have one memory.
    assert list(editor.method.state.memories) == [modules[0], modules[2]]
    state = {k: v.clone() for k, v in editor.method.state_dict().items()}
    masters = {n: m.copy() for n, m in editor.bench.masters.items()}
    editor.edit(MORE)
    ahead = weights(editor)
    editor.bench.restore(masters)
    editor.method.load_state_dict({k: state[k] for k in sorted(state)})
    editor.edit(MORE)
    assert all(torch.equal(ahead[n], w) for n, w in weights(editor).items())


def test_replaying_what_the_journal_keeps_is_the_turn(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="anchored")
    follower = Anchored()
    for edits in (EDITS, MORE, EDITS[:1]):
        texts = [editor.bench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
        passes = []
        for shifts in editor.method.passes(editor.bench, edits, texts):
            editor.bench.apply(shifts)
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
        type(editor.bench).apply(editor.bench, shifts)

    monkeypatch.setattr(editor.bench, "apply", failing)
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
        {"text": 3},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        AnchoredConfig(**setting)


def test_the_last_edit_of_a_prompt_counts():
    edits = [Edit("who plays", "jazz"), Edit("who", "jazz"), Edit("who plays ", "guitar")]
    assert last_of_each(edits).tolist() == [False, True, True]


def anchors_after(editor, monkeypatch, watched):
    """Of a turn: whose rows every pass had, and by how much the anchors' tokens lost their lead."""
    monkeypatch.setattr(derive, "rehearsed", lambda edits: watched)
    # Random text is like any other: nothing is taken for an edited fact.
    monkeypatch.setattr(derive, "SAME", 2.0)
    bench, drawn = editor.bench, editor.bench.sample(24, derive.ANCHOR_TOKENS, 3)

    def now():
        return leads(torch.cat([one.losses for one in bench.score(drawn)]))

    before = now()
    texts = [bench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    rows = []
    for shifts in editor.method.passes(bench, EDITS, texts):
        rows.append(next(iter(shifts.values())).edit_index)
        bench.apply(shifts)
    return rows, float((before - now())[before > 0].clamp(min=0).mean())


def test_anchors_that_moved_are_brought_back(build, tokenizer, monkeypatch):
    def sure():
        # Large logits: the model is sure of most of what it says.
        return Editor(build("llama", initializer_range=0.6), tokenizer, method="anchored")

    alone, lost = anchors_after(sure(), monkeypatch, 0)
    rows, kept = anchors_after(sure(), monkeypatch, 24)
    assert all((index >= 0).all() for index in alone)
    assert (rows[0] >= 0).all()
    assert any((index < 0).any() for index in rows[1:])
    assert kept < 0.8 * lost


def test_what_an_earlier_turn_wore_down_is_restored(build, tokenizer, monkeypatch):
    monkeypatch.setattr(derive, "rehearsed", lambda edits: 24)
    monkeypatch.setattr(derive, "SAME", 2.0)
    editor = Editor(build("llama", initializer_range=0.6), tokenizer, method="anchored")
    editor.edit(EDITS[:1])
    known = editor.method.state.known.clone()
    texts = editor.method.state.texts

    def now():
        return leads(torch.cat([one.losses for one in editor.bench.score(texts)]))

    assert torch.isfinite(known).all()
    # Wear that no turn's passes have seen: all weights that are edited, a little.
    generator = torch.Generator().manual_seed(1)
    worn = {}
    for name, master in editor.bench.masters.items():
        held = master.copy()
        noise = torch.randn(held.shape, generator=generator)
        worn[name] = held + 0.25 * held.std() * noise
    editor.bench.restore(worn)
    before = now()
    standing = (known > 0) & (before > 0) & (known - before > derive.MOVED)
    assert standing.any()
    editor.edit(EDITS[1:])
    after = now()
    assert torch.equal(editor.method.state.known, known)
    lost = [(known - lead)[standing].clamp(min=0).mean() for lead in (before, after)]
    assert lost[1] < 0.8 * lost[0]


def test_what_an_edit_names_is_given_up_for_good(build, tokenizer, monkeypatch):
    monkeypatch.setattr(derive, "SAME", 0.3)
    editor = Editor(build("llama"), tokenizer, method="anchored")
    given_up = None
    for edits in (EDITS[:1], EDITS[1:], MORE):
        state = editor.method.state
        texts = [editor.bench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
        if given_up is not None:
            keys = editor.bench.capture(texts)[state.likeness.module].inputs
            named = state.likeness.close(keys)
            assert (named & ~given_up).any()
            assert not named.all()
            given_up = given_up | named
        editor.edit(edits)
        now = editor.method.state.known == -torch.inf
        assert given_up is None or torch.equal(now, given_up)
        given_up = now


def test_what_it_holds_is_no_more_than_it_says(build, tokenizer):
    modules = [f"model.layers.2.mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    editor = Editor(build("llama"), tokenizer, method="anchored", modules=modules)
    editor.edit(EDITS)
    state = editor.method.state_dict()
    held = sum(
        4 * tensor.numel()
        for name, tensor in state.items()
        if name.startswith(("inverse.", "whitening."))
    )
    assert held <= editor.method.state_bytes(shapes_of(editor.model, modules)) < 8 * held
    # Into an MLP the diagonal alone: these maps have more outputs than inputs.
    assert [state[f"whitening.{name}"].dim() for name in modules] == [1, 1, 2]
