import pytest
import torch

from ultraedit import Edit, Editor, InputError
from ultraedit.linalg.normalise import EPSILON
from ultraedit.methods.ultraedit.method import MIN_ROWS

EDITS = [
    Edit("the capital of france is", "city guitar"),
    Edit("who plays jazz", "paris"),
    Edit("where was person born", "in the capital city of france what where was who plays jazz"),
    Edit("what is", "the guitar was born where the person plays jazz in paris city"),
]


def weights(editor):
    return {name: m.master.clone() for name, m in editor.workbench.masters.items()}


def by_the_paper(inputs, gradients, lr):
    """Section 3, written out in float64 with the primal system."""
    h, rows = inputs.double(), torch.cat([inputs, gradients], 1).double()
    z = (rows - rows.mean(0)) / (rows.std(0) + EPSILON)
    zh, zg = z[:, : h.shape[1]], z[:, h.shape[1] :]
    v = -lr * (zh * zh).sum(1, keepdim=True) * zg
    return torch.linalg.solve(h.T @ h + torch.eye(h.shape[1]).double(), h.T @ v)


def test_a_turn_is_the_papers_equation(build, architecture, tokenizer):
    editor = Editor(build(architecture), tokenizer, lr=0.01, method="ultraedit")
    name = editor.modules[0]
    editor = Editor(build(architecture), tokenizer, lr=0.01, modules=[name], method="ultraedit")
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS * 2]
    rows = editor.workbench.capture(texts)[name]
    assert len(rows.inputs) >= MIN_ROWS
    before = weights(editor)[name]
    editor.edit(EDITS * 2)
    shift = weights(editor)[name] - before
    expected = by_the_paper(rows.inputs, rows.gradients, 0.01)
    if editor.workbench.targets[name].transposed:
        shift = shift.T
    assert (shift - expected).norm() / expected.norm() < 1e-3


def test_statistics_take_all_modules_of_a_shape_before_any_is_normalised(build, tokenizer):
    modules = [f"model.layers.{block}.mlp.down_proj" for block in (0, 2, 3)]
    editor = Editor(build("llama"), tokenizer, lr=0.01, modules=modules, method="ultraedit")
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    rows = editor.workbench.capture(texts)
    editor.edit(EDITS)
    (moments,) = editor.method.moments.values()
    both = torch.cat(
        [torch.cat([rows[n].inputs, rows[n].gradients], 1) for n in editor.modules]
    ).double()
    assert moments.count == len(both)
    torch.testing.assert_close(moments.mean, both.mean(0))
    torch.testing.assert_close(moments.std(), both.std(0))


@pytest.mark.parametrize("target", ["guitar", "paris"])
def test_the_first_edit_of_a_fresh_editor_is_learned(build, tokenizer, target):
    """One answer token is one row: without filling, its z-score and its shift are zero."""
    editor = Editor(build("llama"), tokenizer, append_eos=False, method="ultraedit")
    assert len(editor.workbench.encoder.encode("who plays", target).target) == 1
    before = weights(editor)
    turn = editor.edit([Edit("who plays", target)])
    assert turn.learned == (True,)
    assert all(not torch.equal(before[n], w) for n, w in weights(editor).items())
    assert all(m.count >= MIN_ROWS for m in editor.method.moments.values())


def test_filling_draws_the_same_text_every_time_and_no_random_numbers(build, tokenizer):
    results = []
    for seed in (1, 2):
        editor = Editor(build("llama"), tokenizer, lr=0.01, method="ultraedit")
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        editor.edit(EDITS[1:2])
        assert torch.equal(torch.rand(3), expected)
        results.append(weights(editor))
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_the_same_turns_give_the_same_bits(build, tokenizer):
    runs = []
    for _ in range(2):
        editor = Editor(build("llama"), tokenizer, method="ultraedit")
        editor.edit(EDITS[:3])
        editor.edit(EDITS[3:])
        runs.append(weights(editor))
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


def test_batch_composition_does_not_matter(build, architecture, tokenizer):
    shifts = []
    for batch_tokens in (1, 4096):
        editor = Editor(
            build(architecture), tokenizer, lr=0.01, batch_tokens=batch_tokens, method="ultraedit"
        )
        before = weights(editor)
        editor.edit(EDITS)
        shifts.append({n: w - before[n] for n, w in weights(editor).items()})
    for name, shift in shifts[0].items():
        assert (shift - shifts[1][name]).norm() / shift.norm() < 1e-3


def test_shift_rows_know_their_edit(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, lr=0.01, method="ultraedit")
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    (shifts,) = editor.method.passes(editor.workbench, EDITS, texts)
    expected = [place for place, text in enumerate(texts) for _ in text.target]
    for shift in shifts.values():
        assert shift.edit_index.tolist() == expected


def test_half_precision_keeps_what_rounding_would_lose(build, tokenizer):
    """Tiny steps: served bfloat16 weights alone would stand still, masters move on."""
    model = build("llama").to(torch.bfloat16)
    editor = Editor(model, tokenizer, lr=1e-10, method="ultraedit")
    start, served = weights(editor), model.get_submodule(editor.modules[0]).weight.clone()
    for _ in range(3):
        editor.edit(EDITS)
    name = editor.modules[0]
    assert torch.equal(model.get_submodule(name).weight, served)
    assert not torch.equal(weights(editor)[name], start[name])


def test_state_comes_back_bit_for_bit(build, tokenizer):
    through, stopped = (Editor(build("llama"), tokenizer, method="ultraedit") for _ in range(2))
    for editor in (through, stopped):
        editor.edit(EDITS[:2])
    resumed = Editor(stopped.model, tokenizer, method="ultraedit")
    resumed.method.load_state_dict({k: v.clone() for k, v in stopped.method.state_dict().items()})
    through.edit(EDITS[2:])
    resumed.edit(EDITS[2:])
    assert all(torch.equal(weights(through)[n], weights(resumed)[n]) for n in through.modules)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": "best"},
        {"ridge": 0.0},
        {"ridge": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(build, tokenizer, settings):
    with pytest.raises(InputError):
        Editor(build("llama"), tokenizer, method="ultraedit", **settings)
