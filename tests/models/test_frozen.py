"""Blocks below the first edited one, quantised or off the device, and what is edited above them."""

import json
import logging
import os
import tempfile

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.utils import is_bitsandbytes_available

from ultraedit import Edit, Editor, InputError
from ultraedit.models import frozen as frozen_module
from ultraedit.models.discover import frozen_below
from ultraedit.models.frozen import loading_options

accelerate = pytest.importorskip("accelerate")
EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris city", id="b"),
    Edit("where was person born", "what", id="c"),
]
OWN_CLASSES = {"gpt2": "Conv1D", "falcon": "FalconLinear"}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where this process's temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def opened(folder, frozen, **options):
    return Editor.from_pretrained(
        folder, device="cpu", frozen=frozen, **{"method": "ultraedit", **options}
    )


def masters(editor):
    return {name: m.copy() for name, m in editor.workbench.masters.items()}


def shifts(editor, edits=EDITS):
    before = masters(editor)
    editor.edit(edits)
    return {name: after - before[name] for name, after in masters(editor).items()}


def difference(found, expected):
    """The largest relative difference of any module's shift."""
    return max(float((found[n] - s).norm() / s.norm()) for n, s in expected.items())


def size(block):
    """Bytes of a block's weights that are in memory, with the scales of packed ones."""
    total = 0
    for tensor in block.parameters():
        if hasattr(tensor, "tensor_data_names"):
            total += sum(getattr(tensor, name).nbytes for name in tensor.tensor_data_names)
        elif tensor.device.type != "meta":
            state = getattr(tensor, "quant_state", None)
            total += tensor.nbytes + (0 if state is None else state.absmax.nbytes)
    return total


def frozen_size(editor):
    model = editor.model
    names = frozen_below(model, editor.modules)
    assert names
    return sum(size(model.get_submodule(name)) for name in names)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def require(place):
    pytest.importorskip("torchao" if place == "int8" else "bitsandbytes")


@pytest.mark.parametrize("place", ["disk", "cpu"])
def test_off_the_device_the_shift_is_the_same_to_the_bit(
    save_base, architecture, tmp_path, temporary, place
):
    base = save_base(architecture)
    plain, placed = (opened(base, where, lr=0.01) for where in (None, place))
    assert same(shifts(placed), shifts(plain))
    # On a machine without an accelerator, CPU memory is where a model is anyway.
    assert frozen_size(placed) == (0 if place == "disk" else frozen_size(plain))
    assert not list(temporary.iterdir())
    placed.save(tmp_path / "out")
    assert_plain_sum(base, tmp_path / "out", placed)
    again = Editor.load(tmp_path / "out", device="cpu")
    assert again.frozen == place
    assert frozen_size(again) == frozen_size(placed)
    assert same(shifts(again, EDITS[:1]), shifts(plain, EDITS[:1]))


def assert_plain_sum(base, out, editor):
    """Whether `out` is the base, in full precision, with the edited weights for its own."""
    plain = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    original = AutoModelForCausalLM.from_pretrained(base, dtype="auto").state_dict()
    edited = {f"{name}.weight" for name in editor.modules}
    for name, weight in plain.state_dict().items():
        assert type(weight) is torch.Tensor
        assert weight.dtype == original[name].dtype
        assert torch.equal(weight, original[name]) == (name not in edited), name
    for name, master in masters(editor).items():
        assert torch.equal(plain.get_submodule(name).weight, master.to(plain.dtype))
    assert "quantization" not in (out / "config.json").read_text()
    stored = set()
    for path in out.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored |= {(key, file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118
    dtype = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[plain.dtype]
    assert {kind for _, kind in stored} == {dtype}


@pytest.mark.parametrize("place", ["int8", "int4"])
def test_quantised_blocks_under_edited_ones_in_full_precision(
    save_base, architecture, tmp_path, place
):
    require(place)
    base = save_base(architecture)
    if architecture == "falcon" or (architecture == "gpt2" and not is_bitsandbytes_available()):
        with pytest.raises(InputError, match=f"cannot quantise.*{OWN_CLASSES[architecture]}"):
            opened(base, place)
        return
    editor = opened(base, place, lr=0.01)
    plain = opened(base, None, lr=0.01)
    ratio = frozen_size(editor) / frozen_size(plain)
    # Norms, biases and scales weigh more in blocks of 32 features than they would in others.
    assert ratio < (0.35 if place == "int8" else 0.2)
    for name, parameter in editor.model.named_parameters():
        if not any(name.startswith(f"{b}.") for b in frozen_below(plain.model, plain.modules)):
            assert type(parameter) is torch.nn.Parameter, name
            assert parameter.dtype == torch.float32
    # What four bits leave of a random model is not near; of a trained one, see below.
    assert difference(shifts(editor), shifts(plain)) < (0.5 if place == "int8" else 2.0)
    editor.save(tmp_path / "out")
    assert_plain_sum(base, tmp_path / "out", editor)
    again = Editor.load(tmp_path / "out", device="cpu")
    assert again.frozen == place
    assert again.settings() == editor.settings()
    assert frozen_size(again) == frozen_size(editor)
    assert same(shifts(again, EDITS[:1]), shifts(editor, EDITS[:1]))
    assert isinstance(again.ask("who plays jazz"), str)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", ["int8", "int4", "disk"])
def test_half_precision(save_base, tmp_path, place, dtype):
    if place != "disk":
        require(place)
    base = save_base("llama", dtype, intermediate_size=64)
    editor, plain = (opened(base, where, lr=0.01, dtype=dtype) for where in (place, None))
    assert editor.model.dtype == dtype
    bound = {"disk": 0.0, "int8": 0.5, "int4": 2.0}[place]
    assert difference(shifts(editor), shifts(plain)) <= bound
    assert frozen_size(editor) < 0.75 * frozen_size(plain)
    editor.save(tmp_path / "out")
    assert_plain_sum(base, tmp_path / "out", editor)


def test_eight_bits_do_not_overflow_in_float16(save_base):
    """Sums over int8 weights pass float16's largest number long before the weights' own do."""
    require("int8")
    base = save_base("llama", torch.float16)
    model = opened(base, "int8").model
    down = model.model.layers[0].mlp.down_proj
    plain = opened(base, None).model.model.layers[0].mlp.down_proj
    inputs = 300 * torch.sign(plain.weight[:1]).detach()
    with torch.no_grad():
        torch.testing.assert_close(down(inputs), plain(inputs), rtol=0.05, atol=10)
        assert torch.isfinite(down(inputs)).all()


@pytest.mark.parametrize(("place", "bound"), [("int8", 0.1), ("int4", 0.5), ("disk", 0.0)])
def test_the_embedded_model(place, bound, tmp_path):
    from ultraedit.data import read_cases
    from ultraedit.demo import CASES_FILE

    if place != "disk":
        require(place)
    edits = [case.edit for case in read_cases(CASES_FILE, limit=50)]
    plain = Editor.from_pretrained("demo", device="cpu", lr=0.03, method="ultraedit")
    editor = Editor.from_pretrained("demo", device="cpu", lr=0.03, frozen=place, method="ultraedit")
    assert difference(shifts(editor, edits), shifts(plain, edits)) <= bound
    texts = [plain.workbench.encoder.encode(edit.prompt, edit.target) for edit in edits]
    learned = [
        sum(bool(s.correct.all()) for s in one.workbench.score(texts)) for one in (plain, editor)
    ]
    assert abs(learned[0] - learned[1]) <= 3
    assert learned[1] > 35
    assert frozen_size(editor) < 0.3 * frozen_size(plain)
    # Served in full precision, as it will be, it has learned about as much.
    editor.save(tmp_path / "out")
    served = Editor(
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"), plain.tokenizer, method="ultraedit"
    )
    assert sum(bool(s.correct.all()) for s in served.workbench.score(texts)) > learned[0] - 5


def test_nothing_is_frozen_below_the_first_block(save_base, tmp_path, caplog):
    base = save_base("llama")
    options = {"modules": ["model.layers.0.mlp.down_proj"], "lr": 0.01}
    for place in ("int8", "int4", "disk"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            editor = opened(base, place, **options)
        assert f"frozen={place} has no effect" in caplog.text
        assert all(type(p) is torch.nn.Parameter for p in editor.model.parameters())
        assert same(shifts(editor), shifts(opened(base, None, **options)))
        editor.save(tmp_path / place)
        # Asked for again, as `--resume` does, it is the same choice.
        assert opened(tmp_path / place, place).frozen == place
    assert frozen_below(editor.model, ["lm_head"]) == []
    assert frozen_below(editor.model, ["model.layers.2.mlp.up_proj", "lm_head"]) == []


def test_wrong_choices_are_one_line(save_base, monkeypatch):
    base = save_base("llama")
    for options, message in [
        ({"frozen": "int3"}, "frozen is one of resident, int8, int4, cpu, disk, not 'int3'"),
        ({"frozen": ""}, "not ''"),
        ({"frozen": "disk", "device_map": "auto"}, "exclude each other"),
        ({"frozen": "int8", "device_map": {"": "cpu"}}, "exclude each other"),
        ({"frozen": "disk", "modules": ["model.layers.77"]}, "no module"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            Editor.from_pretrained(base, **options)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(frozen_module, "is_torchao_available", lambda version: False)
    monkeypatch.setattr(frozen_module, "is_bitsandbytes_available", lambda: False)
    for place in ("int8", "int4"):
        with pytest.raises(InputError, match=r"pip install 'ultraedit\[quantise\]'"):
            opened(base, place)
    monkeypatch.setattr(frozen_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ultraedit\[accelerate\]'"):
        opened(base, "disk")


def test_a_checkpoint_that_is_quantised_already_is_not_quantised_again(save_base):
    base = save_base("llama")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantised already"):
        opened(base, "int8")


def test_a_map_that_covers_the_model(build, architecture):
    """For a device that is not here: every tensor has one place, and frozen ones the other."""
    model = build(architecture)
    from ultraedit.models.presets import choose_modules

    edited = choose_modules(model)
    meta = torch.device("meta")
    places = loading_options(model, edited, "cpu", meta, None)["device_map"]
    accelerate.big_modeling.check_device_map(model, places)
    frozen = frozen_below(model, edited)
    assert {name for name, where in places.items() if where == "cpu"} == set(frozen)
    assert {where for name, where in places.items() if name not in frozen} == {"meta"}
    for name, _ in model.named_parameters():
        assert sum(name == p or name.startswith(f"{p}.") for p in places) == 1


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules")
def test_weights_in_another_format_go_through_a_temporary_folder(save_base, tmp_path, temporary):
    base = save_base("llama")
    plain = AutoModelForCausalLM.from_pretrained(base)
    torch.save(plain.state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    editor, resident = (opened(base, where, lr=0.01) for where in ("disk", None))
    assert len(list(temporary.iterdir())) == 1
    assert frozen_size(editor) == 0
    assert same(shifts(editor), shifts(resident))
    editor.save(tmp_path / "out")
    resident.save(tmp_path / "out2")
    one, two = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("out", "out2")
    )
    assert same(one, two)
    del editor
    import gc

    gc.collect()
    assert not list(temporary.iterdir())
    if frozen_module.is_torchao_available():
        with pytest.raises(InputError, match="no safetensors"):
            opened(base, "int8")


def test_fused_experts_lie_elsewhere_and_are_not_quantised(tokenizer, tmp_path, temporary, caplog):
    config = MixtralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=56, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, eos_token_id=2,
    )  # fmt: skip
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    options = {"lr": 0.01, "modules": ["model.layers.2.self_attn.o_proj"]}
    plain, placed = (opened(base, where, **options) for where in (None, "disk"))
    assert len(list(temporary.iterdir())) == 1
    expected = shifts(plain)
    assert same(shifts(placed), expected)
    placed.save(tmp_path / "out")
    assert_plain_sum(base, tmp_path / "out", placed)
    require("int8")
    assert difference(shifts(opened(base, "int8", **options)), expected) < 0.5
    assert "saves little" in caplog.text


def test_an_interrupted_load_leaves_no_folder(save_base, temporary, monkeypatch):
    base = save_base("llama")
    seen = []

    def interrupted(source, **options):
        seen.append(options["offload_folder"])
        (temporary / os.path.basename(options["offload_folder"]) / "x").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(base, "disk")
    assert seen
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("place", ["int8", "int4", "cpu", "disk"])
def test_cuda(save_base, tmp_path, place):
    if place.startswith("int"):
        require(place)
    base = save_base("llama", torch.bfloat16)
    editor, plain = (
        Editor.from_pretrained(base, device="cuda", frozen=where, lr=0.01, method="ultraedit")
        for where in (place, None)
    )
    bound = {"int8": 0.5, "int4": 2.0}.get(place, 1e-6)
    assert difference(shifts(editor), shifts(plain)) <= bound
    editor.save(tmp_path / "out")
    assert_plain_sum(base, tmp_path / "out", editor)
