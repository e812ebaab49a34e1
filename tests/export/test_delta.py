"""A delta and its base are the edited model; anything else is refused."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ultraedit import Edit, Editor
from ultraedit.errors import InputError
from ultraedit.export import checkpoint, delta
from ultraedit.export.apply import apply
from ultraedit.storage.fingerprint import fingerprint_of


def test_a_delta_on_its_base_serves_what_the_edited_model_serves(edited, tmp_path, assert_serves):
    written = delta.write(edited.out, tmp_path / "facts.safetensors")
    shutil.rmtree(edited.out)
    read = delta.read(tmp_path / "facts.safetensors")
    assert read == written
    assert (read.method, read.turns, read.edits) == ("ultraedit", 2, 3)
    assert read.base == fingerprint_of(edited.base)
    assert read.base_name == str(edited.base)
    applied = apply(edited.base, tmp_path / "facts.safetensors", tmp_path / "plain")
    assert (applied.method, applied.turns, applied.edits) == ("ultraedit", 2, 3)
    shutil.rmtree(edited.base)
    assert_serves(tmp_path / "plain", edited.served)


def test_it_holds_the_edited_weights_under_their_checkpoint_names_and_no_more(edited, tmp_path):
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    names = {f"{module}.weight" for module in edited.editor.modules}
    # GPT-2's published checkpoints, and so what transformers saves, have no prefix.
    held = load_file(path)
    assert {name.removeprefix("transformer.") for name in names} == {
        name.removeprefix("transformer.") for name in held
    }
    published = set()
    for shard in edited.base.glob("*.safetensors"):
        published |= load_file(shard).keys()
    assert held.keys() <= published
    for key, tensor in held.items():
        parameter = next(name for name in names if name.endswith(key))
        assert torch.equal(tensor, edited.served[parameter])
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert {"ultraedit_delta", "base", "method", "edits", "turns", "ultraedit"} <= metadata.keys()
    assert len(metadata["sha256"]) == 64


@pytest.mark.parametrize("size", ["1GB", "10KB"])
def test_a_base_cut_into_other_files_is_the_same_base(edit_model, tmp_path, assert_serves, size):
    edited = edit_model()
    delta.write(edited.out, tmp_path / "facts.safetensors")
    other = tmp_path / "other"
    shutil.copytree(edited.base, other, ignore=shutil.ignore_patterns("*.safetensors*"))
    AutoModelForCausalLM.from_pretrained(edited.base).save_pretrained(other, max_shard_size=size)
    apply(other, tmp_path / "facts.safetensors", tmp_path / "plain")
    assert_serves(tmp_path / "plain", edited.served)


def test_files_without_edits_are_linked_and_no_edited_tensor_is_twice(edit_model, tmp_path):
    edited = edit_model()
    delta.write(edited.out, tmp_path / "facts.safetensors")
    apply(edited.base, tmp_path / "facts.safetensors", tmp_path / "plain")
    base = {path.stat().st_ino for path in edited.base.glob("*.safetensors")}
    plain = {path.stat().st_ino for path in (tmp_path / "plain").glob("*.safetensors")}
    assert len(base & plain) >= len(base) - 1
    held = [key for path in (tmp_path / "plain").glob("*.safetensors") for key in load_file(path)]
    assert len(held) == len(set(held))


def test_another_base_is_refused_by_both_names(edit_model, build, tokenizer, tmp_path):
    edited, other = edit_model(), edit_model(seed=1)
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    with pytest.raises(InputError) as caught:
        apply(other.base, path, tmp_path / "plain")
    for part in (
        str(other.base),
        str(path),
        str(edited.base),
        fingerprint_of(edited.base)[:16],
        fingerprint_of(other.base)[:16],
    ):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "plain").exists()


def test_a_base_with_one_other_element_is_refused(edit_model, tmp_path, generator):
    edited = edit_model()
    delta.write(edited.out, tmp_path / "facts.safetensors")
    shards = sorted(edited.base.glob("*.safetensors"))
    shard = shards[int(torch.randint(len(shards), (1,), generator=generator))]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="is not the base of"):
        apply(edited.base, tmp_path / "facts.safetensors", tmp_path / "plain")
    shard.write_bytes(content)
    apply(edited.base, tmp_path / "facts.safetensors", tmp_path / "plain")


def test_an_edited_model_is_no_base(edit_model, tmp_path):
    edited = edit_model()
    delta.write(edited.out, tmp_path / "facts.safetensors")
    with pytest.raises(InputError, match="is an edited model") as caught:
        apply(edited.out, tmp_path / "facts.safetensors", tmp_path / "plain")
    assert str(edited.base) in str(caught.value)
    checkpoint.write(edited.out, tmp_path / "once")
    with pytest.raises(InputError, match="is not the base of"):
        apply(tmp_path / "once", tmp_path / "facts.safetensors", tmp_path / "plain")


def test_edits_of_an_edited_model_name_the_unedited_one(edit_model, tmp_path, assert_serves):
    edited = edit_model()
    editor = Editor.from_pretrained(edited.out, method="ultraedit")
    editor.edit([Edit("what city", "paris")])
    editor.save(tmp_path / "further")
    written = delta.write(tmp_path / "further", tmp_path / "facts.safetensors")
    assert written.base_name == str(edited.base)
    assert written.turns == 3
    apply(edited.base, tmp_path / "facts.safetensors", tmp_path / "plain")
    assert_serves(tmp_path / "plain", editor.model.state_dict())


def test_a_model_loaded_in_another_dtype_than_its_files(edit_model, tmp_path, assert_serves):
    edited = edit_model()
    editor = Editor.from_pretrained(edited.base, lr=0.05, dtype="bfloat16", method="ultraedit")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "half")
    delta.write(tmp_path / "half", tmp_path / "facts.safetensors")
    apply(edited.base, tmp_path / "facts.safetensors", tmp_path / "plain")
    assert_serves(tmp_path / "plain", editor.model.state_dict())
    other = edit_model(seed=1)
    with pytest.raises(InputError, match="is not the base of"):
        apply(other.base, tmp_path / "facts.safetensors", tmp_path / "other")


def test_a_truncated_delta_is_refused(edit_model, tmp_path):
    edited = edit_model()
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    content = path.read_bytes()
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"facts\.safetensors"):
            apply(edited.base, path, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    path.write_bytes(content)
    apply(edited.base, path, tmp_path / "plain")


def test_a_flipped_bit_anywhere_is_refused(edit_model, tmp_path, generator):
    edited = edit_model()
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    spots = torch.randint(header, len(content), (40,), generator=generator).tolist()
    for spot in [*range(header), *spots, len(content) - 1]:
        altered = bytearray(content)
        altered[spot] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        path.write_bytes(altered)
        with pytest.raises(InputError) as caught:
            delta.read(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
    path.write_bytes(content)
    delta.read(path)


def test_altered_words_and_swapped_tensors_are_refused(edit_model, tmp_path):
    edited = edit_model("gpt2", n_layer=8)
    assert len(edited.editor.modules) > 1
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, path, metadata)
    delta.read(path)  # rewritten as it was
    for word in metadata.keys() - {"sha256"}:
        save_file(tensors, path, {**metadata, word: metadata[word] + "0"})
        with pytest.raises(InputError):
            delta.read(path)
    first, second, *_ = tensors
    swapped = {**tensors, first: tensors[second], second: tensors[first]}
    for held in (swapped, {first: tensors[first]}, {**tensors, "more": torch.zeros(1)}):
        save_file(held, path, metadata)
        with pytest.raises(InputError, match="was altered"):
            delta.read(path)


def test_what_is_no_delta_is_refused(edit_model, tmp_path):
    edited = edit_model()
    plain = next(edited.base.glob("*.safetensors"))
    for path, said in (
        (plain, "is no delta"),
        (edited.base / "config.json", "is no safetensors file"),
        (tmp_path / "nothing", "does not exist"),
        (edited.base, "is no file"),
    ):
        with pytest.raises(InputError, match=said):
            apply(edited.base, path, tmp_path / "plain")


def test_a_delta_of_a_later_format_says_so(edit_model, tmp_path):
    edited = edit_model()
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(path), path, {**metadata, "ultraedit_delta": "2"})
    with pytest.raises(InputError, match="format 2, this ultraedit reads up to 1"):
        delta.read(path)


def test_a_base_that_is_not_there_is_named(edit_model, tmp_path):
    edited = edit_model()
    path = tmp_path / "facts.safetensors"
    delta.write(edited.out, path)
    pickled = tmp_path / "pickled"
    shutil.copytree(edited.base, pickled, ignore=shutil.ignore_patterns("*.safetensors*"))
    for base, said in (
        (pickled, "could not be loaded"),
        (tmp_path / "nowhere", "does not exist"),
        ("nobody/has-this-model", "could not be loaded"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            apply(base, path, tmp_path / "plain")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "plain").exists()


def test_a_hub_id_in_the_cache_is_a_base(edit_model, tmp_path, monkeypatch, assert_serves):
    edited = edit_model()
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(edited.base.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )
    editor = Editor.from_pretrained(snapshot, lr=0.05, method="ultraedit")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "out")
    written = delta.write(tmp_path / "out", tmp_path / "facts.safetensors")
    assert written.base_name == "some/model"
    apply("some/model", tmp_path / "facts.safetensors", tmp_path / "plain")
    shutil.rmtree(tmp_path / "hub")
    assert_serves(tmp_path / "plain", editor.model.state_dict())
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("size", ["20KB", "10MB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_base_of_pickled_weights_is_applied_to(
    build, tokenizer, tmp_path, assert_serves, name, dtype, size
):
    """transformers 5 writes no pickles; published models still have them."""
    base, weights = tmp_path / "base", build(name).to(getattr(torch, dtype))
    weights.save_pretrained(base, max_shard_size=size)
    tokenizer.save_pretrained(base)
    for path in base.glob("*.safetensors"):
        torch.save(load_file(path), base / path.name.replace("safetensors", "bin"))
        path.unlink()
    index = base / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text().replace(".safetensors", ".bin").replace("model-", "pytorch_model-")
        (base / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    for path in base.glob("model*.bin"):
        path.rename(base / f"pytorch_{path.name}")
    editor = Editor.from_pretrained(base, method="ultraedit", lr=0.05, device="cpu")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "out")
    delta.write(tmp_path / "out", tmp_path / "facts.safetensors")
    apply(base, tmp_path / "facts.safetensors", tmp_path / "plain")
    assert_serves(tmp_path / "plain", editor.model.state_dict())
    other = build(name, seed=7).to(getattr(torch, dtype))
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="is not the base of"):
        apply(tmp_path / "other", tmp_path / "facts.safetensors", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
