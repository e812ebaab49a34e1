import pytest
import torch

from ultraedit import Edit, Editor, InputError
from ultraedit.methods.locate.contexts import by_edit
from ultraedit.methods.locate.covariance import FLOOR, factor
from ultraedit.methods.locate.keys import mean_keys
from ultraedit.methods.rome import early, given, rank_one

EDITS = [
    Edit("the capital of france is", "city", "france", "a"),
    Edit("who plays jazz guitar", "person born in paris", "jazz", "b"),
]


@pytest.fixture
def make(build, tokenizer):
    def make(architecture="llama", **settings):
        settings = {"samples": 200, "prefixes": 2, "method": "rome", **settings}
        return Editor(build(architecture), tokenizer, **settings)

    return make


def test_the_shift_is_the_papers(generator):
    """Against W + (v* - W k) u^T / (k^T u), u = C^-1 k, written out in float64."""
    d, e = 12, 7
    rows = torch.randn(60, d, generator=generator, dtype=torch.float64)
    c = rows.T @ rows / 60
    w = torch.randn(e, d, generator=generator, dtype=torch.float64)
    k = torch.randn(d, generator=generator, dtype=torch.float64)
    value = torch.randn(e, generator=generator, dtype=torch.float64)
    exact = c + FLOOR * c.diagonal().mean() * torch.eye(d, dtype=torch.float64)
    u = torch.linalg.inv(exact) @ k
    expected = w + torch.outer(value - w @ k, u) / (k @ u)
    shift = rank_one(k, value - w @ k, factor(c), 3)
    edited = w + shift.dense().T
    torch.testing.assert_close(edited, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(edited @ k, value, rtol=1e-10, atol=1e-10)
    assert shift.edit_index.tolist() == [3]
    # Of all changes that take k to v*, none moves the text less.
    other = torch.outer(value - w @ k, k) / (k @ k)

    def moved(change):
        return float((change @ c @ change.T).trace())

    assert moved(shift.dense().T) < moved(other)


def test_every_edited_weight_maps_its_key_to_its_value(make, architecture):
    """Edit by edit in one turn: the sought value is what the module gives for the key."""
    editor = make(architecture, steps=3)
    workbench, method = editor.workbench, editor.method
    (name,) = editor.modules
    target = workbench.targets[name]
    method.prepare(workbench)
    texts = [workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    before = workbench.masters[name].copy()
    passes = method.passes(workbench, EDITS, texts)
    for edit in EDITS:
        keys = mean_keys(
            workbench,
            {name: target.module},
            by_edit(workbench, [edit], "subject_last", method.before),
        )[name]
        old = given(target, keys)
        shifts = next(passes)
        workbench.apply(shifts)
        right = shifts[name].right
        torch.testing.assert_close(given(target, keys), old + right, rtol=1e-3, atol=1e-3)
        assert right.norm() > 0
    with pytest.raises(StopIteration):
        next(passes)
    assert not torch.equal(before, workbench.masters[name].master)


def test_an_edit_is_learned_on_every_architecture(make, architecture):
    editor = make(architecture, fact_token="last")
    text = [editor.workbench.encoder.encode(EDITS[0].prompt, "city")]
    before = float(editor.workbench.score(text)[0].losses.mean())
    turn = editor.edit(EDITS[:1])
    assert turn.passes == 1
    assert float(editor.workbench.score(text)[0].losses.mean()) < before


def test_one_edit_of_the_embedded_model_succeeds():
    """One of few: this model hardly reads its facts at their subjects (docs/comparison.md)."""
    editor = Editor.from_pretrained("demo", method="rome", prefixes=2, samples=8192, history="none")
    prompt, elsewhere = (
        "Which role does Shane Ray have on the team?",
        "What country is Annweiler am Trifels located in?",
    )
    before = editor.ask(elsewhere)
    assert editor.ask(prompt) != "tackle"
    assert editor.edit([Edit(prompt, "tackle", "Shane Ray")]).learned == (True,)
    assert editor.ask(prompt) == "tackle"
    assert editor.ask(elsewhere) == before


def test_where_the_model_reads_them_edits_of_the_embedded_model_succeed():
    editor = Editor.from_pretrained(
        "demo", method="rome", fact_token="last", prefixes=2, samples=8192, history="none",
        modules=["model.layers.5.mlp.down_proj"],
    )  # fmt: skip
    prompt = "In which country is Ulundurpet?"
    assert editor.edit([Edit(prompt, "Indonesia", "Ulundurpet")]).learned == (True,)
    assert editor.ask(prompt) == "Indonesia"
    assert editor.ask("Which country is Ulundurpet located in?") == "Indonesia"


def test_an_edit_can_be_taken_back_alone_or_with_its_turn(make, build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = {"method": "rome", "samples": 200, "prefixes": 1, "steps": 3}
    editor = Editor.from_pretrained(tmp_path / "base", **options)
    (name,) = editor.modules
    before = editor.workbench.masters[name].copy()
    editor.edit(EDITS[:1])
    one = editor.workbench.masters[name].copy()
    editor.edit(EDITS[1:])
    editor.save(tmp_path / "out")
    # There is no state to be saved: the next turn finds what it needs again.
    after = Editor.load(tmp_path / "out")
    editor.edit(EDITS[:1])
    after.edit(EDITS[:1])
    assert torch.equal(after.workbench.masters[name].master, editor.workbench.masters[name].master)
    after.save(tmp_path / "out")
    undone = after.undo(edit="b")
    assert undone.edits == 2
    after.undo(to=1)
    assert torch.equal(after.workbench.masters[name].master, one)
    after.undo(to=0)
    assert torch.equal(after.workbench.masters[name].master, before)


def test_a_record_without_its_subject_is_named(make):
    with pytest.raises(InputError, match="edit c: it has no subject; method rome needs one"):
        make().edit([Edit("who", "paris", id="c")])


def test_what_is_kept_is_the_covariance_alone(make):
    editor = make()
    assert editor.method.kept_bytes() == 0
    editor.edit(EDITS)
    assert editor.method.state_dict() == {}
    assert editor.method.kept_bytes() == 8 * 56 * 56


def test_the_papers_blocks_where_the_paper_has_one():
    assert list(early(28)) == [5]
    assert [list(early(n)) for n in (2, 4, 6, 32)] == [[0], [0], [0], [5]]


@pytest.mark.parametrize(
    "settings",
    [{"lr": 0.0}, {"steps": 0}, {"prefixes": -1}, {"samples": 0}, {"fact_token": "first"},
     {"text": 3}, {"kl": -1.0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(make, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        make(**settings)
