"""Everything of a model that is no weight is copied as it is."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from ultraedit import Edit, Editor
from ultraedit.export import checkpoint
from ultraedit.storage.config_files import copy_config_files, save_tokenizer

# As transformers 4 wrote it; 5 writes `rope_parameters` and `dtype` instead, which 4 does not read.
V4 = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
    "transformers_version": "4.46.1", "vocab_size": 512, "hidden_size": 32,
    "intermediate_size": 56, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-05,
    "hidden_act": "silu", "tie_word_embeddings": False, "rope_theta": 500000.0,
    "rope_scaling": None, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
TEMPLATE = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"


@pytest.fixture
def base(build, tokenizer, tmp_path):
    """A folder as older releases left it, with everything that may lie beside weights."""
    folder = tmp_path / "base"
    build("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = V4 | {"vocab_size": AutoConfig.from_pretrained(folder).vocab_size}
    (folder / "config.json").write_text(json.dumps(config) + "\r\n")
    inline = json.loads((folder / "tokenizer_config.json").read_text())
    inline["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(inline))
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "LICENSE", "README.md",
                 "NOTICE.txt", "custom.py", "parts/deeper.py"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(f"{{}} {name}\r\n".encode())
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))
    return folder


def small_files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and "safetensors" not in path.name
        and path.relative_to(folder).parts[0] != "ultraedit"
    }


def test_every_file_that_is_no_weight_is_the_bases_own(base, tmp_path):
    editor = Editor.from_pretrained(base, method="ultraedit", lr=0.01, device="cpu")
    editor.edit([Edit("the capital of france is", "paris")])
    editor.save(tmp_path / "out")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "out")
    checkpoint.write(tmp_path / "out", tmp_path / "plain")
    again = Editor.from_pretrained(tmp_path / "out", method="ultraedit")
    again.save(tmp_path / "second")
    expected = small_files(base)
    assert len(expected) > 10
    for folder in ("out", "plain", "second"):
        assert small_files(tmp_path / folder) == expected
    assert AutoConfig.from_pretrained(tmp_path / "out").rope_parameters["rope_theta"] == 500000
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE


def test_only_the_dtype_of_a_config_differs_where_the_weights_do(base, tmp_path):
    editor = Editor.from_pretrained(
        base, method="ultraedit", lr=0.01, device="cpu", dtype="bfloat16"
    )
    editor.edit([Edit("the capital of france is", "paris")])
    editor.save(tmp_path / "out")
    expected = small_files(base)
    found = small_files(tmp_path / "out")
    theirs, ours = json.loads(expected.pop("config.json")), json.loads(found.pop("config.json"))
    assert ours == theirs | {"torch_dtype": "bfloat16"}
    assert found == expected
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        ({"dtype": "float32", "torch_dtype": "float32"},
         {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
        ({}, {"torch_dtype": "bfloat16"}),
    ],
)  # fmt: skip
def test_a_dtype_is_named_where_the_config_names_it(tmp_path, before, after):
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from/config.json").write_text(json.dumps(before))
    copy_config_files(tmp_path / "from", tmp_path / "to", "bfloat16")
    assert json.loads((tmp_path / "to/config.json").read_text()) == after


TEXTS = ["the capital of france is", "who plays jazz in the city"]


def as_transformers_4_wrote_it(folder):
    """Name a class of tokenizer that 4 knows; the tests' own come from 5."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("form", ["out", "checkpoint"])
def test_a_base_of_transformers_4_stays_readable_by_it(base, tmp_path, form, opens_alike):
    as_transformers_4_wrote_it(base)
    editor = Editor.from_pretrained(base, method="ultraedit", lr=0.01, device="cpu")
    editor.edit([Edit("the capital of france is", "paris")])
    editor.save(tmp_path / "out")
    if form == "checkpoint":
        checkpoint.write(tmp_path / "out", tmp_path / "checkpoint")
    opens_alike(tmp_path / form, TEXTS)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"rope_parameters": {"rope_theta": 7e4, "rope_type": "linear", "factor": 4.0}}),
        ("qwen3", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 5e5, "rope_type": "default"},
                    "sliding_attention": {"rope_theta": 7e2, "rope_type": "default"},
                }
            },
        ),
        ("gpt2", {}),
    ],
)
def test_a_model_without_files_is_written_for_both_releases(
    build, tokenizer, tmp_path, architecture, changes, opens_alike
):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<u>"]})
    editor = Editor(build(architecture, **changes), tokenizer, method="ultraedit", lr=0.01)
    editor.edit([Edit("the capital of france is", "paris")])
    editor.save(tmp_path / "out")
    opens_alike(tmp_path / "out", [*TEXTS, "who<u>jazz"])


def test_saving_a_tokenizer_leaves_a_config_that_was_copied_alone(tokenizer, tmp_path):
    config = json.dumps({"dtype": "float32", "rope_parameters": {"rope_theta": 7e4}})
    (tmp_path / "config.json").write_text(config)
    save_tokenizer(tmp_path, tokenizer)
    assert (tmp_path / "tokenizer.json").is_file()
    assert (tmp_path / "config.json").read_text() == config
