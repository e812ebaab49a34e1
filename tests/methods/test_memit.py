import pytest
import torch

from ultraedit import Edit, Editor, InputError, UnsupportedModelError
from ultraedit.methods.locate.contexts import by_edit
from ultraedit.methods.locate.covariance import FLOOR, factor
from ultraedit.methods.locate.keys import at_places, mean_keys
from ultraedit.methods.memit import MemitConfig, blocks_of, early, spread

EDITS = [
    Edit("the capital of france is", "city", "france", "a"),
    Edit("who plays jazz guitar", "person born in paris", "jazz", "b"),
    Edit("where was person born", "the capital", "person", "c"),
]


@pytest.fixture
def make(build, tokenizer):
    def make(architecture="llama", **settings):
        settings = {"samples": 200, "prefixes": 1, "steps": 3, "method": "memit", **settings}
        return Editor(build(architecture), tokenizer, **settings)

    return make


@pytest.mark.parametrize("n", [1, 3, 30])
def test_the_shift_solves_its_normal_equations(generator, n):
    """Against R K^T (lambda C + K K^T)^-1 with keys as columns, inverted in float64."""
    d, e, weight = 12, 7, 40.0
    rows = torch.randn(60, d, generator=generator, dtype=torch.float64)
    c = rows.T @ rows / 60
    keys = torch.randn(n, d, generator=generator, dtype=torch.float64)
    residuals = torch.randn(n, e, generator=generator, dtype=torch.float64)
    exact = c + FLOOR * c.diagonal().mean() * torch.eye(d, dtype=torch.float64)
    system = weight * exact + keys.T @ keys
    expected = residuals.T @ keys @ torch.linalg.inv(system)
    shift = spread(keys, residuals, factor(c), weight)
    torch.testing.assert_close(shift.dense().T, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(shift.dense().T @ system, residuals.T @ keys, rtol=1e-8, atol=1e-8)
    assert shift.edit_index.tolist() == list(range(n))
    # The less other text weighs, the nearer the keys come to what they should give.
    free = spread(keys[:1], residuals[:1], factor(c), 1e-9)
    torch.testing.assert_close(keys[:1] @ free.dense(), residuals[:1], rtol=1e-6, atol=1e-6)


def test_every_block_takes_its_share_of_what_is_missing(make, monkeypatch):
    """Block by block, with keys and hidden states as they are by then."""
    editor = make(weight=0.5)
    workbench, method = editor.workbench, editor.method
    method.prepare(workbench)
    names = editor.modules
    assert len(names) > 1
    blocks = blocks_of(workbench)
    last = {"last": list(blocks.values())[-1]}
    texts = [workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    own = by_edit(workbench, EDITS, "subject_last", method.before)
    alone = [one[0] for one in own]
    start = at_places(workbench, last, alone)["last"][1]
    sought = []

    def known(workbench, module, now, *rest):
        torch.testing.assert_close(now, start)
        sought.append(torch.ones_like(now))
        return sought[0]

    monkeypatch.setattr("ultraedit.methods.memit.search", known)
    for done, shifts in enumerate(method.passes(workbench, EDITS, texts)):
        (name,) = shifts
        assert name == names[done]
        keys = mean_keys(workbench, {name: workbench.targets[name].module}, own)[name].double()
        now = at_places(workbench, last, alone)["last"][1]
        missing = (start + 1 - now).double() / (len(names) - done)
        lower = method.factors[name]
        system = 0.5 * lower @ lower.T + keys.T @ keys
        expected = torch.linalg.solve(system, keys.T @ missing)
        torch.testing.assert_close(shifts[name].dense().double(), expected, rtol=1e-3, atol=1e-4)
        workbench.apply(shifts)
    assert done == len(names) - 1
    assert len(sought) == 1


def test_what_was_sought_is_nearly_reached(make, architecture):
    if architecture == "gemma3":
        with pytest.raises(UnsupportedModelError, match="cannot spread a change over blocks"):
            make(architecture)
        return
    editor = make(architecture, weight=1e-6)
    workbench, method = editor.workbench, editor.method
    before = {n: m.copy() for n, m in workbench.masters.items()}
    text = [workbench.encoder.encode(EDITS[0].prompt, "city")]
    loss = float(workbench.score(text)[0].losses.mean())
    turn = editor.edit(EDITS)
    assert turn.passes == len(editor.modules)
    assert all(not torch.equal(before[n], m.master) for n, m in workbench.masters.items())
    assert float(workbench.score(text)[0].losses.mean()) < loss
    assert method.state_dict() == {}


def test_one_edit_of_the_embedded_model_succeeds():
    """At the token where this model reads its facts, see docs/comparison.md."""
    editor = Editor.from_pretrained(
        "demo", method="memit", fact_token="last", prefixes=2, samples=8192, history="none",
        modules=[f"model.layers.{n}.mlp.down_proj" for n in range(2, 6)],
    )  # fmt: skip
    prompt, elsewhere = (
        "In which country is Ulundurpet?",
        "What country is Annweiler am Trifels located in?",
    )
    before = editor.ask(elsewhere)
    assert editor.ask(prompt) != "Indonesia"
    assert editor.edit([Edit(prompt, "Indonesia", "Ulundurpet")]).learned == (True,)
    assert editor.ask(prompt) == "Indonesia"
    assert editor.ask(elsewhere) == before


def test_an_edit_can_be_taken_back_alone_or_with_its_turn(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = {"method": "memit", "samples": 200, "prefixes": 1, "steps": 3}
    editor = Editor.from_pretrained(tmp_path / "base", **options)
    before = {n: m.copy() for n, m in editor.workbench.masters.items()}
    editor.edit(EDITS[:1])
    one = {n: m.copy() for n, m in editor.workbench.masters.items()}
    editor.edit(EDITS[1:])
    editor.save(tmp_path / "out")
    after = Editor.load(tmp_path / "out")
    after.undo(edit="b")
    after.undo(to=1)
    assert all(torch.equal(one[n], m.master) for n, m in after.workbench.masters.items())
    after.edit(EDITS[1:])
    masters = editor.workbench.masters
    assert all(torch.equal(masters[n].master, m.master) for n, m in after.workbench.masters.items())
    after.save(tmp_path / "out")
    after.undo(to=0)
    assert all(torch.equal(before[n], m.master) for n, m in after.workbench.masters.items())


def test_modules_outside_the_blocks_or_two_of_one_are_refused(make):
    with pytest.raises(UnsupportedModelError, match="one module of a block"):
        make(modules=["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"])
    with pytest.raises(UnsupportedModelError, match="in no decoder block"):
        make("llama", modules=["lm_head"])


def test_the_papers_blocks_and_weight():
    assert list(early(28)) == [3, 4, 5, 6, 7, 8]
    assert [list(early(n)) for n in (2, 4, 6)] == [[0], [0, 1, 2], [0, 1, 2, 3]]
    assert MemitConfig().weight_for(16384) == 15000
    assert MemitConfig().weight_for(1024) == 937.5
    assert MemitConfig(weight=3.0).weight_for(1024) == 3.0


def test_a_weight_out_of_range_is_refused(make):
    with pytest.raises(InputError, match="weight"):
        make(weight=0.0)
