"""The fingerprint follows the values, and nothing but the values."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ultraedit import Edit, Editor
from ultraedit.errors import InputError
from ultraedit.storage.fingerprint import fingerprint, fingerprint_of

FACTS = [Edit("the capital of france is", "paris"), Edit("who plays jazz", "guitar")]


def saved(model, folder, size="1GB"):
    model.save_pretrained(folder, max_shard_size=size)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_it_is_the_same_however_the_files_are_cut(build, tmp_path, name, dtype):
    model = build(name).to(dtype)
    folders = [saved(model, tmp_path / size, size) for size in ("1GB", "40KB", "10KB")]
    assert len({len(list(folder.glob("*.safetensors"))) for folder in folders}) == 3
    reordered = tmp_path / "reordered"
    reordered.mkdir()
    tensors = load_file(folders[0] / "model.safetensors")
    shuffled = {key: tensors[key] for key in sorted(tensors, reverse=True)}
    metadata = {"format": "pt", "more": "of it"}
    save_file(shuffled, reordered / "model.safetensors", metadata)
    folders.append(reordered)
    found = {fingerprint_of(folder) for folder in folders}
    assert len(found) == 1
    assert len(found.pop()) == 64


def test_it_is_the_documented_digest(build, tmp_path):
    folder = saved(build("gpt2"), tmp_path / "model")
    whole = hashlib.sha256()
    for key, tensor in sorted(load_file(folder / "model.safetensors").items()):
        content = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        whole.update(json.dumps([key, "F32", list(tensor.shape), content]).encode() + b"\n")
    assert fingerprint_of(folder) == whole.hexdigest()


def test_tensors_longer_than_a_buffer_are_read_whole(tmp_path, generator):
    tensor = torch.randn(3, 2**20, generator=generator)
    save_file({"a": tensor, "b": tensor[:, :7].contiguous()}, tmp_path / "x.safetensors")
    places = {"a": (tmp_path / "x.safetensors", "a"), "b": (tmp_path / "x.safetensors", "b")}
    before = fingerprint(places)
    for column in (0, 2**20 - 1):
        changed = tensor.clone()
        changed[2, column] += 1
        save_file({"a": changed, "b": tensor[:, :7].contiguous()}, tmp_path / "y.safetensors")
        other = {name: (tmp_path / "y.safetensors", name) for name in places}
        assert fingerprint(other) != before
        assert fingerprint(places | {"b": other["b"]}) == before


def test_values_names_dtypes_and_shapes_all_count(tmp_path):
    def of(**tensors):
        path = tmp_path / "x.safetensors"
        save_file(tensors, path)
        return fingerprint({name: (path, name) for name in tensors})

    one = torch.arange(6.0)
    variants = [
        of(a=one),
        of(b=one),
        of(a=one.reshape(2, 3)),
        of(a=one.view(torch.int32)),
        of(a=one, b=one.clone()),
        of(a=-one),
        of(a=one[:0]),
        of(),
    ]
    assert len(set(variants)) == len(variants)


def test_one_element_changes_it(build, tmp_path, generator):
    model = build("llama").bfloat16()
    before = fingerprint_of(saved(model, tmp_path / "before", "20KB"))
    names = [name for name, _ in model.named_parameters()]
    name = names[int(torch.randint(len(names), (1,), generator=generator))]
    weight = model.get_parameter(name).detach().view(-1)
    place = int(torch.randint(len(weight), (1,), generator=generator))
    weight[place] = weight[place] * 2 + 1
    assert fingerprint_of(saved(model, tmp_path / "after", "20KB")) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("size", ["1GB", "10KB"])
def test_an_edited_model_has_its_bases(build, tokenizer, tmp_path, name, dtype, size):
    base = saved(build(name).to(dtype), tmp_path / "base", size)
    tokenizer.save_pretrained(base)
    before = fingerprint_of(base)
    editor = Editor.from_pretrained(base, lr=0.05, method="ultraedit")
    for fact in FACTS:
        editor.edit([fact])
        editor.save(tmp_path / "out")
        assert fingerprint_of(tmp_path / "out") == before
    unsourced = Editor(
        AutoModelForCausalLM.from_pretrained(base), tokenizer, lr=0.05, method="ultraedit"
    )
    unsourced.edit(FACTS)
    unsourced.save(tmp_path / "unsourced")
    assert fingerprint_of(tmp_path / "unsourced") == before
    plain = shutil.copytree(tmp_path / "out", tmp_path / "plain")
    shutil.rmtree(plain / "ultraedit")
    assert fingerprint_of(plain) != before


def test_folders_without_safetensors_are_refused(build, tmp_path):
    (tmp_path / "empty").mkdir()
    base = saved(build("llama"), tmp_path / "base", "20KB")
    next(base.glob("*.safetensors")).unlink()
    for folder in (tmp_path / "empty", base, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="has no safetensors"):
            fingerprint_of(folder)


def test_missing_and_damaged_files_are_named(build, tokenizer, tmp_path):
    editor = Editor(build("llama"), tokenizer, lr=0.05, method="ultraedit")
    editor.edit(FACTS)
    editor.save(tmp_path / "out")
    for name in ("model-base-00001-of-00001.safetensors", "ultraedit/originals.safetensors"):
        path = tmp_path / "out" / name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(InputError, match=path.name):
            fingerprint_of(tmp_path / "out")
        path.unlink()
        with pytest.raises(InputError, match=f"{path.name} is missing"):
            fingerprint_of(tmp_path / "out")
        path.write_bytes(content)
    fingerprint_of(tmp_path / "out")


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="holds no tensor b"):
        fingerprint({"a": (tmp_path / "x.safetensors", "b")})
    with pytest.raises(InputError, match="No such file"):
        fingerprint({"a": (tmp_path / "y.safetensors", "a")})
