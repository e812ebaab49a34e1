"""Where base shards come from: links, copies without the edited tensors, the model itself."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, MixtralConfig, MixtralForCausalLM

from ultraedit.errors import InputError
from ultraedit.storage import read, read_manifest
from ultraedit.storage.checkpoint import closest_key
from unrecorded import gap, write


@pytest.fixture
def sharded(build, tmp_path):
    """A model, and the folder it was saved to in many shards."""
    model = build("llama")
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 4
    return model, tmp_path / "model"


def keys_of(path):
    with safe_open(path, framework="pt") as shard:
        return set(shard.keys())


def test_shards_without_edits_are_hard_links_and_the_others_copies(
    sharded, session, modules, tokenizer, tmp_path, assert_serves
):
    model, folder = sharded
    names = set(modules["llama"])
    write(
        tmp_path / "out",
        session(model, names).turn(),
        model=model,
        tokenizer=tokenizer,
        source=folder,
    )
    base = list((tmp_path / "out").glob("model-base-*"))
    shards = {path.stat().st_ino: path for path in folder.glob("*.safetensors")}
    untouched = {inode for inode, path in shards.items() if not keys_of(path) & names}
    only_edits = [path for path in shards.values() if keys_of(path) <= names]
    linked = {path.stat().st_ino for path in base} & shards.keys()
    assert untouched
    assert linked == untouched
    assert len(base) == len(shards) - len(only_edits)
    assert sorted(path.name for path in base) == [
        f"model-base-{n:05d}-of-{len(base):05d}.safetensors" for n in range(1, len(base) + 1)
    ]
    assert_serves(tmp_path / "out", model)


def test_a_shard_of_edits_only_leaves_no_empty_shard(
    build, session, modules, tokenizer, tmp_path, assert_serves
):
    model = build("llama")
    edited = {name: model.get_parameter(name).detach() for name in modules["llama"]}
    rest = {k: v for k, v in model.state_dict().items() if k not in edited}
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({k: v.clone() for k, v in edited.items()}, folder / "a.safetensors", {"format": "pt"})
    save_file(rest, folder / "b.safetensors", {"format": "pt"})
    weight_map = dict.fromkeys(edited, "a.safetensors") | dict.fromkeys(rest, "b.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    snapshot = session(model, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    assert [p.name for p in (tmp_path / "out").glob("model-base*")] == [
        "model-base-00001-of-00001.safetensors"
    ]
    assert_serves(tmp_path / "out", model)


def test_where_links_are_refused_shards_are_copied(
    sharded, session, modules, tokenizer, tmp_path, monkeypatch, assert_serves
):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    model, folder = sharded
    snapshot = session(model, modules["llama"]).turn()
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
        write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    theirs = {path.stat().st_ino for path in folder.iterdir()}
    assert not theirs & {path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    shutil.rmtree(folder)
    assert_serves(tmp_path / "out", model)


def test_a_hub_cache_of_symbolic_links_is_linked_to_its_blobs(
    sharded, session, modules, tokenizer, tmp_path, assert_serves
):
    model, folder = sharded
    cache = tmp_path / "snapshots" / "abc"
    cache.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        (cache / path.name).symlink_to(f"../../blobs/{number}")
    snapshot = session(model, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=cache)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    blobs = {path.stat().st_ino for path in (tmp_path / "blobs").iterdir()}
    assert blobs & {path.stat().st_ino for path in (tmp_path / "out").glob("model-base-*")}
    shutil.rmtree(tmp_path / "blobs")
    assert_serves(tmp_path / "out", model)


def test_a_bfloat16_model_of_a_float32_checkpoint_keeps_its_dtype(
    sharded, session, modules, tokenizer, tmp_path, assert_serves
):
    model, folder = sharded
    model = model.bfloat16()
    snapshot = session(model, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    theirs = {path.stat().st_ino for path in folder.iterdir()}
    assert theirs & {path.stat().st_ino for path in (tmp_path / "out").glob("model-base-*")}
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert_serves(tmp_path / "out", model)


def test_a_checkpoint_without_the_models_prefix_keeps_its_own_names(
    build, session, modules, tokenizer, tmp_path, assert_serves
):
    # As gpt2 on the hub is: saved from the base model.
    model = build("gpt2")
    model.transformer.save_pretrained(tmp_path / "model")
    snapshot = session(model, modules["gpt2"]).turn()
    out = tmp_path / "out"
    write(out, snapshot, model=model, tokenizer=tokenizer, source=tmp_path / "model")
    assert keys_of(out / "model-edited.safetensors") == {
        name.removeprefix("transformer.") for name in modules["gpt2"]
    }
    assert_serves(out, model)
    assert sorted(read(out).served) == modules["gpt2"]


@pytest.mark.parametrize("source", ["none", "bin", "missing shard", "other model", "not there"])
def test_without_fitting_safetensors_the_model_itself_is_saved(
    build, session, modules, tokenizer, tmp_path, assert_serves, assert_same_snapshot, source
):
    model = build("llama")
    folder = tmp_path / "model"
    if source == "bin":
        folder.mkdir()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif source == "missing shard":
        model.save_pretrained(folder, max_shard_size="20KB")
        next(folder.glob("*-00002-of-*")).unlink()
    elif source == "other model":
        build("llama", seed=1).save_pretrained(folder)
    snapshot = session(model, modules["llama"]).turn()
    out = tmp_path / "out"
    write(
        out,
        snapshot,
        model=model,
        tokenizer=tokenizer,
        source=None if source == "none" else folder,
    )
    assert_serves(out, model)
    assert_same_snapshot(read(out), snapshot)


def test_weights_that_the_checkpoint_only_has_in_pieces_are_saved_under_the_models_names(
    session, tokenizer, tmp_path, assert_serves
):
    # transformers fuses Mixtral's experts on loading and takes them apart on saving.
    config = MixtralConfig(
        vocab_size=400, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    linear, fused = (
        [name for name, _ in model.named_parameters() if name.endswith(ending)]
        for ending in ("0.self_attn.o_proj.weight", "0.mlp.experts.down_proj")
    )
    assert len(linear) == len(fused) == 1
    for number, names in enumerate((linear, linear + fused)):
        out = tmp_path / f"out{number}"
        model = MixtralForCausalLM.from_pretrained(tmp_path / "model")
        snapshot = session(model, names).turn()
        write(out, snapshot, model=model, tokenizer=tokenizer, source=tmp_path / "model")
        assert_serves(out, model)


def test_going_on_in_the_edited_folder_itself(
    sharded, session, modules, tokenizer, tmp_path, opened, assert_serves, assert_same_snapshot
):
    model, folder = sharded
    out = tmp_path / "out"
    first = session(model, modules["llama"]).turn()
    write(out, first, model=model, tokenizer=tokenizer, source=folder)
    again = opened(out)
    editing = session(again, modules["llama"], originals=read(out).originals)
    base = {path.name: path.stat().st_ino for path in out.glob("model-base-*")}
    editing.version = 1
    second = editing.turn()
    write(out, second, model=again, tokenizer=tokenizer, source=out)
    assert {path.name: path.stat().st_ino for path in out.glob("model-base*")} == base
    assert_serves(out, again)
    assert_same_snapshot(read(out), second)


@pytest.mark.parametrize("change", ["more", "fewer", "others", "fresh start", "dtype"])
def test_an_edited_model_is_a_model_to_edit(
    sharded, session, modules, tokenizer, tmp_path, opened, assert_serves, assert_same_snapshot,
    change,
):  # fmt: skip
    model, folder = sharded
    first_out = tmp_path / "first"
    first = session(model, modules["llama"]).turn()
    write(first_out, first, model=model, tokenizer=tokenizer, source=folder)
    model = opened(first_out)
    one, two = modules["llama"]
    names = {
        "more": [one, two, "model.layers.3.mlp.up_proj.weight"],
        "fewer": [two],
        "others": ["model.layers.0.mlp.gate_proj.weight", "lm_head.weight"],
    }.get(change, [one, two])
    if change == "dtype":
        model = model.bfloat16()
    originals = {name: model.get_parameter(name).detach().clone() for name in names}
    if change != "fresh start":
        # What the editor knows of the weights before their first edit.
        originals |= {name: first.originals[name].to(model.dtype) for name in {one, two} & {*names}}
    second = session(model, names, originals=originals).turn()
    out = tmp_path / "second"
    write(out, second, model=model, tokenizer=tokenizer, source=first_out)
    assert_serves(out, model)
    assert_same_snapshot(read(out), second)
    assert len(list(out.glob("model-edited*"))) == 1
    assert len(list(out.glob("ultraedit/originals*"))) == 1
    assert_same_snapshot(read(first_out), first)
    with pytest.raises(InputError, match="other modules or of another model"):
        write(
            first_out, second, model=model, tokenizer=tokenizer, source=first_out,
            update=gap(second),
        )  # fmt: skip
    assert_same_snapshot(read(first_out), first)


def test_the_config_names_no_quantisation_that_the_linked_shards_do_not_have(
    sharded, session, modules, tokenizer, tmp_path
):
    model, folder = sharded
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    snapshot = session(model, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    assert model.config.quantization_config["load_in_4bit"]


def test_processor_files_come_along(sharded, session, modules, tokenizer, tmp_path):
    model, folder = sharded
    (folder / "preprocessor_config.json").write_text('{"size": 3}')
    snapshot = session(model, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == '{"size": 3}'


def test_a_weights_file_that_the_config_names_is_found(
    build, session, modules, tokenizer, tmp_path, assert_serves
):
    model = build("llama")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"transformers_weights": "weights.safetensors"})
    )
    snapshot = session(model, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    assert "transformers_weights" not in (tmp_path / "out/config.json").read_text()
    assert read_manifest(tmp_path / "out").base
    assert_serves(tmp_path / "out", model)


def test_a_tensor_that_the_source_has_twice_is_there_once(
    build, session, modules, tokenizer, tmp_path, opened, assert_serves
):
    model = build("llama")
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    extra = next(iter(keys_of(shards[-1])))
    tensors = load_file(shards[0]) | {extra: torch.zeros_like(model.get_parameter(extra))}
    save_file(tensors, shards[0], {"format": "pt"})
    as_loaded = opened(folder)
    snapshot = session(as_loaded, modules["llama"]).turn()
    write(tmp_path / "out", snapshot, model=as_loaded, tokenizer=tokenizer, source=folder)
    assert_serves(tmp_path / "out", as_loaded)


def test_a_damaged_source_is_named(sharded, session, modules, tokenizer, tmp_path):
    model, folder = sharded
    shard = next(folder.glob("*-00002-of-*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    snapshot = session(model, modules["llama"]).turn()
    with pytest.raises(InputError, match=shard.name):
        write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["model.a.0.w", "a.0.w"], "model.a.0.w"),
        (["a.0.w", "a.1.w"], "a.0.w"),
        (["x.model.a.0.w", "a.0.w"], "x.model.a.0.w"),
        (["x.a.0.w", "y.a.0.w"], None),
        (["b.0.w", "b.1.w"], "b.0.w"),
        (["a.10.w", "b.1.w"], None),
        (["a.0.v"], None),
        ([], None),
    ],
)
def test_the_closest_key_shares_the_longest_ending(keys, expected):
    assert closest_key("model.a.0.w", keys) == expected
