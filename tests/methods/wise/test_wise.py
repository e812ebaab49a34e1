import random

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultraedit import Edit, Editor, InputError, TurnRefusedError
from ultraedit.export.source import require_format
from ultraedit.methods.wise.method import WiseConfig, late
from ultraedit.methods.wise.scores import Margins, margin_loss
from ultraedit.methods.wise.shards import mask, ties
from ultraedit.methods.wise.training import Course, module_inputs, trained
from ultraedit.storage.manifest import read_manifest


def exact(editor, edits):
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    return [bool(s.correct.all()) for s in editor.workbench.score(texts)]


def test_training_is_gradient_descent_in_its_mask(make, edits):
    """Against PyTorch's SGD on the whole model with the copy in the place of the matrix."""
    editor = make()
    workbench = editor.workbench
    (target,) = workbench.targets.values()
    texts = [workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits[:2]]
    own = mask(target.d, target.e, 0.2, 0)
    course = Course(0.05, 4, 0.04, Margins(0.05, 2.0, 1.0), 1.5, 1e-9)
    start = torch.where(own, torch.full((target.d, target.e), 0.01), 0.0)
    inside = module_inputs(workbench, target.module, texts)
    outside = module_inputs(workbench, target.module, workbench.sample(3, 8), whole=True)
    found = trained(workbench, target.module, start, own, texts, inside, outside, course)

    weight = target.parameter.detach().clone()
    delta = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([delta], lr=0.05)
    for _ in range(4):
        optimiser.zero_grad()
        loss = 0
        for text in texts:
            ids = torch.tensor([text.ids])
            logits = torch.func.functional_call(
                workbench.model, {target.parameter_name: weight + delta.T}, (ids,)
            ).logits[0, len(text.prompt) - 1 : -1]
            loss = loss + F.cross_entropy(logits, torch.tensor(text.target)) / 2
        scored = [part.scores(delta) / 1.5 for part in (inside, outside)]
        (loss + margin_loss(*scored, course.margins)).backward()
        delta.grad *= own
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-0.04, 0.04)
    torch.testing.assert_close(found, delta.detach(), rtol=1e-3, atol=1e-5)
    assert not found[~own].any()
    assert float(found.abs().max()) <= 0.04 + 1e-7
    assert torch.equal(target.parameter, weight)


def test_edits_are_answered_on_every_architecture_and_the_weights_stay(make, architecture, edits):
    # A Gemma norms what its last MLP gives, and can move no answer as far: more blocks can.
    place = {"modules": ["model.layers.2.mlp.down_proj"]} if architecture == "gemma3" else {}
    editor = make(architecture, steps=400, share=1.0, unit=1e6, batch=3, **place)
    before = {name: p.clone() for name, p in editor.model.named_parameters()}
    losses = [float(loss) for loss in mean_losses(editor, edits)]
    turn = editor.edit(edits)
    assert all(a < b for a, b in zip(mean_losses(editor, edits), losses, strict=True))
    assert all(torch.equal(before[n], p) for n, p in editor.model.named_parameters())
    with editor.unedited():
        assert mean_losses(editor, edits) == pytest.approx(losses, abs=1e-4)
    assert turn.learned == (True,) * 3 or architecture == "gemma3"
    editor.method.detach()
    assert mean_losses(editor, edits) == pytest.approx(losses, abs=1e-4)


def mean_losses(editor, edits):
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    return [float(s.losses.mean()) for s in editor.workbench.score(texts)]


def test_the_models_own_generation_is_routed(make, edits):
    """Without any editor around it: padded prompts side by side, token by token from a cache."""
    editor = make(steps=400, share=1.0, unit=1e6, batch=3)
    editor.edit(edits)
    tokenizer, model = editor.tokenizer, editor.model
    given = tokenizer([e.prompt for e in edits], return_tensors="pt", padding=True,
                      padding_side="left", return_token_type_ids=False)  # fmt: skip
    said = model.generate(**given, max_new_tokens=3, do_sample=False)
    width = given["input_ids"].shape[1]
    for edit, row in zip(edits, said[:, width:].tolist(), strict=True):
        wanted = editor.workbench.encoder.encode(edit.prompt, edit.answers[0]).target[:3]
        assert tuple(row[: len(wanted)]) == wanted
    assert [editor.ask(e.prompt) for e in edits] == [e.target for e in edits]


def test_what_is_far_from_every_edit_is_answered_by_the_model_itself(make, edits):
    editor = make(steps=60, share=1.0, ratio=1.0, batch=3)
    editor.edit(edits)
    editor.method.router.memory.ratio = 1e6
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    asked = editor.workbench.score(texts)
    with editor.unedited():
        own = editor.workbench.score(texts)
    for one, other in zip(asked, own, strict=True):
        assert one.routed is False
        assert other.routed is None
        torch.testing.assert_close(one.losses, other.losses)


def test_evaluate_says_how_often_it_routed(make, edits):
    editor = make(steps=30, share=1.0)
    editor.edit(edits)
    report = editor.evaluate(edits, generate=True)
    scored = editor.workbench.score(
        [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    )
    share = sum(bool(s.routed) for s in scored) / 3
    assert report.after["efficacy"]["routed"] == share
    assert "routed" not in report.before["efficacy"]
    router = editor.method.router
    assert 0 < router.routed <= router.asked


def test_shards_fill_and_merge_also_within_a_turn(make, edits):
    many = [Edit(f"{e.prompt} {word}", e.target) for e in edits for word in ("paris", "jazz")]
    editor = make(steps=3, shard_edits=2, merge=2)
    editor.edit(many[:1])
    editor.edit(many[1:4])
    state = editor.method.state
    assert [s.edits for s in state.memories] == [4]
    assert [(s.edits, s.number) for s in state.shards] == [(0, 2)]
    editor.edit(many[4:])
    state = editor.method.state
    assert [(s.edits, s.number) for s in state.shards] == [(2, 2), (0, 3)]
    # What was merged is TIES of the two, as they were before.
    other = make(steps=3, shard_edits=2, merge=9)
    other.edit(many[:1])
    other.edit(many[1:4])
    kept = other.method.state.shards
    expected = ties([kept[0].delta, kept[1].delta], 0.53)
    assert torch.equal(state.memories[0].delta, expected)
    assert state.memories[0].least == min(kept[0].least, kept[1].least)
    assert torch.isinf(torch.tensor(state.live.least))


def test_the_least_score_is_that_of_an_edits_own_prompt(make, edits):
    editor = make(steps=5)
    editor.edit(edits)
    live = editor.method.state.live
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
    (target,) = editor.workbench.targets.values()
    with editor.method.bypassed():
        found = module_inputs(editor.workbench, target.module, texts).scores(live.delta)
    assert live.least == pytest.approx(float(found.min()))
    assert live.edits == 3


@pytest.fixture
def base(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_saved_folder_routes_and_goes_on_to_the_same_bits(base, tmp_path, edits):
    options = {"method": "wise", "steps": 20, "shard_edits": 2, "merge": 2}
    many = [*edits, Edit("what is jazz", "guitar", id="d"), Edit("who was born", "paris", id="e")]
    editor = Editor.from_pretrained(base, **options)
    out = tmp_path / "out"
    states = [editor.method.state_dict()]
    for edit in many:
        editor.edit([edit])
        editor.save(out)
        states.append(editor.method.state_dict())
    assert "not in these weights" in (out / "WARNING.md").read_text()
    plain = AutoModelForCausalLM.from_pretrained(out)
    own = AutoModelForCausalLM.from_pretrained(base)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), own.parameters(), strict=True))
    AutoTokenizer.from_pretrained(out)
    after = Editor.load(out)
    assert exact(after, many) == exact(editor, many)
    more = [Edit("where is paris", "france")]
    editor.edit(more)
    after.edit(more)
    same(after.method.state_dict(), editor.method.state_dict())
    # Back, turn by turn, and to the beginning.
    back = Editor.load(out)
    with pytest.raises(InputError, match="cannot tell the edits of a turn apart"):
        back.undo(edit="c")
    for turn in (4, 2, 1, 0):
        back.undo(to=turn)
        same(back.method.state_dict(), states[turn])


def same(one, other):
    names = {"counts", "unit"} | {n for n in other if n.split(".")[0] in ("shard", "memory")}
    for name in names if other else one:
        assert torch.equal(one[name], other[name]), name
    assert one.keys() == other.keys()


def test_what_a_turn_records_is_what_it_changed(make, edits):
    editor = make(steps=3, shard_edits=1, merge=9)
    editor.edit(edits[:1])
    editor.edit(edits[1:2])
    assert "shard.0.values" not in editor.method.record()
    assert {"shard.1.values", "shard.2.values"} <= editor.method.record().keys()


def test_exports_are_refused(base, tmp_path, edits):
    editor = Editor.from_pretrained(base, method="wise", steps=2)
    editor.edit(edits[:1])
    editor.save(tmp_path / "out")
    for form in ("checkpoint", "delta", "lora"):
        with pytest.raises(InputError, match="in no form"):
            require_format(read_manifest(tmp_path / "out"), form)


def test_a_loss_that_is_no_number_leaves_everything_as_it_was(make, edits):
    editor = make(steps=3)
    editor.edit(edits[:1])
    before = editor.method.state_dict()
    with torch.no_grad():
        editor.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(TurnRefusedError, match="not finite"):
        editor.edit(edits[1:])
    same(editor.method.state_dict(), before)


def test_a_text_file_can_say_what_edits_are_not_about(make, edits, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("the capital of france is paris and jazz\n" * 20)
    editor = make(steps=2, text=str(path))
    editor.edit(edits)
    assert editor.method._outside
    with pytest.raises(InputError, match=r"none\.txt"):
        make(text=str(tmp_path / "none.txt")).edit(edits)


def test_one_edit_of_the_embedded_model_succeeds():
    editor = Editor.from_pretrained("demo", method="wise", history="none")
    turn = editor.edit([Edit("What is the name of the mother of Glenn Close?", "Elizabeth")])
    assert turn.learned == (True,)
    assert editor.ask("What is the name of the mother of Glenn Close?") == "Elizabeth"
    with editor.unedited():
        assert editor.ask("What is the name of the mother of Glenn Close?") != "Elizabeth"


def test_several_modules_are_refused(make):
    with pytest.raises(InputError, match="one module, not 2"):
        make(modules=["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"])


def test_the_papers_block():
    assert list(late(32)) == [27]
    assert list(late(6)) == [5]


@pytest.mark.parametrize(
    "settings",
    [{"lr": 0.0}, {"steps": 0}, {"batch": 1.5}, {"share": 1.5}, {"density": 0.0}, {"ratio": -1.0},
     {"unit": "big"}, {"merge": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        WiseConfig(**settings)


def test_it_leaves_the_callers_random_state_alone(make, edits):
    editor = make(steps=2)
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1)
    random.seed(5)
    torch.manual_seed(5)
    editor.edit(edits)
    assert (random.random(), torch.rand(1)) == expected
