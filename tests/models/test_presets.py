import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from ultraedit import InputError
from ultraedit.models.discover import projections
from ultraedit.models.presets import (
    PRESETS,
    choose_modules,
    default_blocks,
    main_outputs,
    preset_of,
)

SHAPES = {
    "GPT-J-6B": ("GPTJ", {"n_embd": 4096, "n_layer": 28, "n_head": 16}),
    "Mistral-7B-v0.3": ("Mistral", {"size": (4096, 14336, 32), "heads": (32, 8)}),
    "Llama-3-8B": ("Llama", {"size": (4096, 14336, 32), "heads": (32, 8)}),
    "Qwen2.5-7B": ("Qwen2", {"size": (3584, 18944, 28), "heads": (28, 4)}),
    "Phi-4": ("Phi3", {"size": (5120, 17920, 40), "heads": (40, 10), "pad_token_id": 0}),
    "Gemma-3-27B": ("Gemma3Text", {"size": (5376, 21504, 62), "heads": (32, 16)}),
}
EXPECTED = {
    "GPT-J-6B": [f"transformer.h.{i}.mlp.fc_out" for i in range(18, 27)],
    "Mistral-7B-v0.3": [f"model.layers.{i}.mlp.down_proj" for i in (29, 30)],
    "Llama-3-8B": [f"model.layers.{i}.mlp.gate_proj" for i in range(11, 16)]
    + [f"model.layers.{i}.mlp.up_proj" for i in range(18, 25)],
    "Qwen2.5-7B": [
        f"model.layers.{i}.mlp.{kind}_proj" for i in range(18, 27) for kind in ("gate", "up")
    ],
    "Phi-4": [f"model.layers.{i}.mlp.down_proj" for i in range(30, 39)],
    "Gemma-3-27B": [
        f"model.layers.{i}.mlp.{kind}_proj" for i in range(52, 61) for kind in ("gate", "up")
    ],
}


@pytest.mark.parametrize("title", sorted(SHAPES))
def test_the_papers_choice_at_the_papers_shape(title):
    prefix, options = SHAPES[title]
    options = dict(options)
    if "size" in options:
        names = ("hidden_size", "intermediate_size", "num_hidden_layers")
        options |= dict(zip(names, options.pop("size"), strict=True))
        names = ("num_attention_heads", "num_key_value_heads")
        options |= dict(zip(names, options.pop("heads"), strict=True))
    config = getattr(transformers, f"{prefix}Config")(**options, vocab_size=64)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert preset_of(model).title == title
    assert choose_modules(model) == EXPECTED[title]


def test_another_width_is_another_model():
    """Llama-2-7B has the depth and hidden size of Llama-3-8B, and is not it."""
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64))
    assert preset_of(model) is None


def test_there_are_six():
    assert sorted(SHAPES) == sorted(preset.title for preset in PRESETS)


def test_another_depth_falls_to_the_rule(build, architecture):
    model = build(architecture)
    assert preset_of(model) is None
    names = choose_modules(model)
    assert [int(part) for name in names for part in name.split(".") if part.isdigit()] == list(
        default_blocks(4)
    )
    for name in names:
        weight = model.get_submodule(name).weight
        assert 32 in weight.shape


@pytest.mark.parametrize("count", [1, 2, 3, 6, 12, 80])
def test_the_rule_always_names_a_block_of_the_model(count):
    blocks = default_blocks(count)
    assert len(blocks) >= 1
    assert blocks[0] >= 0
    assert blocks[-1] < max(count, 1)


def test_a_list_is_put_in_model_order(build):
    names = ["model.layers.2.mlp.down_proj", "model.layers.0.mlp.up_proj"]
    assert choose_modules(build("llama"), names) == names[::-1]
    assert choose_modules(build("llama"), ", ".join(names)) == names[::-1]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["model.layers.9.mlp.down_proj"], r"no module.*there is model\.layers\.0\.mlp\.down_proj"),
        (["nonsense"], "no module 'nonsense'"),
        ([], "no modules"),
        (["model.layers.1.mlp.down_proj"] * 2, "twice"),
    ],
)
def test_bad_lists_are_refused(build, modules, message):
    with pytest.raises(InputError, match=message):
        choose_modules(build("llama"), modules)


def sized(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_of_every_block_one_main_output(build, architecture):
    model = build(architecture)
    found = main_outputs(model, lambda count: range(count))
    assert len(found) == 4
    assert set(found) <= {p.name for p in projections(model) if p.role == "output"}


def test_where_a_block_has_none_the_nearest_that_does_is_taken():
    config = AutoConfig.for_model(
        "qwen3_moe", hidden_size=32, intermediate_size=56, moe_intermediate_size=16,
        num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, num_experts=4,
        decoder_sparse_step=2, vocab_size=50,
    )  # fmt: skip
    model = sized(config)
    held = {p.block for p in projections(model) if p.role == "output"}
    assert held == {0, 2, 4}
    (name,) = main_outputs(model, lambda count: range(5, 6))
    assert name.startswith("model.layers.4.")
    assert len(main_outputs(model, lambda count: range(0, 4))) == 2
