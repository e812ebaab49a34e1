import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultraedit import Case, Edit, Editor, InputError, Probe, TurnRefusedError, UnsupportedModelError

EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris city", id="b"),
    Edit("where was person born", "what", id="c"),
]


def masters(editor):
    return {name: m.copy() for name, m in editor.workbench.masters.items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.fixture
def checkpoint(build, architecture, tokenizer, tmp_path):
    folder = tmp_path / "base"
    build(architecture).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_edit_save_load_go_on(checkpoint, tmp_path):
    """On every architecture: the folder is a plain checkpoint, and an editor can go on."""
    editor = Editor.from_pretrained(checkpoint, device="cpu", method="ultraedit")
    turn = editor.edit(EDITS[:2])
    assert (turn.index, len(turn.learned), turn.passes) == (0, 2, 1)
    editor.save(tmp_path / "out")
    ids = editor.tokenizer("who plays jazz", return_tensors="pt")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(plain(ids).logits, editor.model(ids).logits)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("who plays jazz")["input_ids"] == ids[0].tolist()
    resumed = Editor.load(tmp_path / "out", device="cpu")
    assert resumed.edit(EDITS[2:]).index == 1
    editor.edit(EDITS[2:])
    assert same(masters(resumed), masters(editor))
    assert resumed.settings() == editor.settings()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_checkpoints_keep_their_masters(build, tokenizer, tmp_path, dtype):
    build("llama").to(getattr(torch, dtype)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    editor = Editor.from_pretrained(
        tmp_path / "base", device="cpu", dtype=dtype, method="ultraedit"
    )
    assert str(editor.model.dtype) == f"torch.{dtype}"
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    resumed = Editor.load(tmp_path / "out", device="cpu")
    assert same(masters(resumed), masters(editor))
    for name, master in masters(resumed).items():
        served = resumed.model.get_submodule(name).weight
        assert torch.equal(served, master.to(served.dtype))
        assert not torch.equal(served.float(), master)


def test_sharded_checkpoints(build, tokenizer, tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path / "base", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "base")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    editor = Editor.from_pretrained(tmp_path / "base", device="cpu", method="ultraedit")
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in editor.model.named_parameters():
        assert torch.equal(parameter, dict(plain.named_parameters())[name])


def test_objects_the_caller_has(build, tokenizer, tmp_path):
    model = build("qwen3", tie_word_embeddings=True)
    editor = Editor(model, tokenizer, method="ultraedit")
    assert editor.model is model
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    ids = torch.tensor([[1, 50, 60]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(plain(ids).logits, model(ids).logits)


def test_device_map(checkpoint):
    pytest.importorskip("accelerate")
    mapped = Editor.from_pretrained(checkpoint, device_map="auto", method="ultraedit")
    plain = Editor.from_pretrained(checkpoint, device="cpu", method="ultraedit")
    for editor in (mapped, plain):
        editor.edit(EDITS)
    left, right = masters(mapped), masters(plain)
    for name in left:
        torch.testing.assert_close(left[name].cpu(), right[name], rtol=1e-3, atol=1e-4)


def test_an_edited_module_on_disk_is_refused_and_frozen_ones_are_not(build, tokenizer, tmp_path):
    pytest.importorskip("accelerate")
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu",
              "lm_head": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu",
              "model.layers.2": "cpu", "model.layers.3": "cpu"}  # fmt: skip
    options = {"device_map": places, "modules": ["model.layers.2.mlp.down_proj"], "lr": 0.01}
    editor = Editor.from_pretrained(tmp_path / "base", **{"method": "ultraedit", **options})
    plain = Editor.from_pretrained(
        tmp_path / "base",
        modules=options["modules"],
        lr=0.01,
        device="cpu",
        method="ultraedit",
    )
    for one in (editor, plain):
        one.edit(EDITS)
    torch.testing.assert_close(*(next(iter(masters(e).values())) for e in (editor, plain)))
    options["modules"] = ["model.layers.0.mlp.down_proj"]
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.mlp\.down_proj is offloaded"):
        Editor.from_pretrained(tmp_path / "base", **{"method": "ultraedit", **options})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(checkpoint):
    editor = Editor.from_pretrained(checkpoint, device="cuda", method="ultraedit")
    assert all(editor.edit(EDITS).learned)


def test_unedited_is_the_original_bit_for_bit_and_back(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit")
    original = masters(editor)
    editor.edit(EDITS)
    edited = masters(editor)
    with editor.unedited() as model:
        assert same({n: model.get_submodule(n).weight.clone() for n in edited}, original)
        with editor.unedited():
            pass
        with pytest.raises(InputError, match="unedited"):
            editor.edit(EDITS)
        with pytest.raises(InputError, match="unedited"):
            editor.save("anywhere")
    assert same(masters(editor), edited)


def test_ask_answers_as_the_model_is_now(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit")
    editor.edit([Edit("who plays jazz", "paris")])
    assert editor.ask("who plays jazz") == "paris"
    with editor.unedited():
        assert editor.ask("who plays jazz") != "paris"


def test_turns_of_any_size(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, lr=0.01, method="ultraedit")
    sizes = [1, 3, 2, 1]
    turns = [editor.edit(EDITS[:size]) for size in sizes]
    assert [turn.index for turn in turns] == [0, 1, 2, 3]
    assert [len(turn.edits) for turn in turns] == [len(turn.learned) for turn in turns] == sizes
    assert (editor.turns, editor.edits) == (4, 7)


def test_an_edit_repeated_in_a_turn_and_over_turns_stays_finite(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit")
    assert all(editor.edit([EDITS[0]] * 3).learned)
    for _ in range(10):
        editor.edit([EDITS[0]] * 3)
    assert editor.workbench.is_finite()
    assert len(editor.edit(EDITS[1:]).learned) == 2


def test_nothing_happens_if_one_edit_is_wrong(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit")
    before = masters(editor)
    for wrong, message in [
        (Edit("who " * 99, "paris", id="long"), "edit long is .* tokens long; the model reads 64"),
        ("just text", "edit 4 is a str"),
    ]:
        with pytest.raises(InputError, match=message):
            editor.edit([*EDITS, wrong])
    with pytest.raises(InputError, match="at least one"):
        editor.edit([])
    assert same(masters(editor), before)
    assert editor.method.moments == {}


@pytest.mark.parametrize(
    "arguments",
    [("", "x"), ("x", ""), ("x", "  "), ("x", []), ("x", ["y", ""]), (None, "x"), ("x", 3)],
)
def test_empty_or_odd_edits_are_refused_at_once(arguments):
    with pytest.raises((InputError, TypeError)):
        Edit(*arguments)


def test_a_step_that_overflows_is_refused(build, tokenizer):
    editor = Editor(build("llama").to(torch.float16), tokenizer, lr=1e9, method="ultraedit")
    before = masters(editor)
    with pytest.raises(TurnRefusedError):
        editor.edit(EDITS)
    assert same(masters(editor), before)
    assert editor.method.moments == {}


def test_another_editors_folder_is_not_overwritten(build, tokenizer, tmp_path):
    first, second = (
        Editor(build("llama"), tokenizer, lr=0.01, method="ultraedit") for _ in range(2)
    )
    first.edit(EDITS)
    first.save(tmp_path / "out")
    second.edit(EDITS[:1])
    with pytest.raises(InputError, match="another editor"):
        second.save(tmp_path / "out")
    first.edit(EDITS[:1])
    first.save(tmp_path / "out")
    assert Editor.load(tmp_path / "out").edits == 4


def test_an_interrupt_on_the_way_to_unedited_brings_the_edits_back(build, tokenizer, monkeypatch):
    modules = [f"model.layers.{block}.mlp.down_proj" for block in (1, 2)]
    editor = Editor(build("llama"), tokenizer, lr=0.01, modules=modules, method="ultraedit")
    editor.edit(EDITS)
    edited = masters(editor)

    serve = type(editor.workbench.masters[modules[1]]).serve
    calls = []

    def interrupted(self, weight):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        serve(self, weight)

    monkeypatch.setattr(type(editor.workbench.masters[modules[1]]), "serve", interrupted)
    with pytest.raises(KeyboardInterrupt), editor.unedited():
        pass
    assert same(masters(editor), edited)


def test_prompts_near_the_models_length(build, tokenizer, tmp_path):
    editor = Editor(build("gpt2", n_positions=24), tokenizer, lr=0.01, method="ultraedit")
    prompt = "jazz " * 19
    editor.ask(prompt)
    case = Case(EDITS[0], (Probe("locality", prompt, "city"),))
    text = tmp_path / "text.txt"
    text.write_text(prompt * 5)
    assert editor.evaluate([case], generate=True, text=text).count == 1
    with pytest.raises(InputError, match="reads 24"):
        editor.ask("jazz " * 30)


def test_a_full_device_refuses_the_turn(build, tokenizer, monkeypatch):
    editor = Editor(build("llama"), tokenizer, lr=0.01, method="ultraedit")
    before = masters(editor)

    def full(texts):
        raise torch.OutOfMemoryError("no more")

    # The last thing a turn does, when its shifts are applied already.
    monkeypatch.setattr(editor.workbench, "score", full)
    with pytest.raises(TurnRefusedError, match="batch_tokens"):
        editor.edit(EDITS)
    assert same(masters(editor), before)
    assert editor.method.moments == {}


def test_options_that_contradict_the_saved_editor_are_refused(build, tokenizer, tmp_path):
    editor = Editor(build("llama"), tokenizer, append_eos=True, lr=0.01, method="ultraedit")
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    assert (
        Editor.from_pretrained(
            tmp_path / "out", append_eos=True, lr="auto", method="ultraedit"
        ).edits
        == 3
    )
    with pytest.raises(InputError, match="append_eos=True"):
        Editor.from_pretrained(tmp_path / "out", append_eos=False, method="ultraedit")
    with pytest.raises(InputError, match="lr=0.01"):
        Editor.from_pretrained(tmp_path / "out", lr=0.5, method="ultraedit")


@pytest.mark.parametrize("place", ["nowhere", "empty", "file"])
def test_models_that_are_not_there(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=place):
        Editor.from_pretrained(tmp_path / place, method="ultraedit")


def test_a_truncated_checkpoint_is_one_clear_line(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded") as caught:
        Editor.from_pretrained(tmp_path / "base", method="ultraedit")
    assert "\n" not in str(caught.value)


def test_the_callers_random_state_and_gradients_flags_stay(build, tokenizer):
    model = build("llama")
    editor = Editor(model, tokenizer, method="ultraedit")
    editor.edit(EDITS)
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
