import json
import os

import pytest
import torch
from safetensors import safe_open

from ultraedit.errors import InputError, UltraEditError
from ultraedit.storage import Snapshot, is_edited_model, read, read_settings
from ultraedit.storage.bits import same_bits
from unrecorded import gap, write


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def dtype(request):
    return getattr(torch, request.param)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_written_is_what_transformers_loads_and_what_read_returns(
    build, session, modules, tokenizer, tmp_path, architecture, dtype, tied,
    assert_serves, assert_same_snapshot,
):  # fmt: skip
    model = build(architecture, tie_word_embeddings=tied).to(dtype)
    model.save_pretrained(tmp_path / "model")
    snapshot = session(model, modules[architecture]).turn()
    out = tmp_path / "out"
    write(out, snapshot, model=model, tokenizer=tokenizer, source=tmp_path / "model")
    assert is_edited_model(out)
    assert_serves(out, model)
    assert_same_snapshot(read(out), snapshot)
    assert read_settings(out) == snapshot.settings
    assert not (out / "ultraedit" / "unfinished").exists()


def test_masters_that_are_the_served_weights_are_not_stored_twice(
    build, session, modules, tokenizer, tmp_path
):
    model = build("llama")
    write(
        tmp_path / "out",
        session(model, modules["llama"]).turn(),
        model=model,
        tokenizer=tokenizer,
        source=None,
    )
    assert not list(tmp_path.glob("out/ultraedit/masters*"))
    again = read(tmp_path / "out")
    assert all(again.masters[name] is again.served[name] for name in again.served)


def test_a_float32_master_that_differs_from_the_served_weight_is_kept(
    build, session, modules, tokenizer, tmp_path, assert_same_snapshot
):
    model = build("llama")
    turn = session(model, modules["llama"]).turn()
    first, second = modules["llama"]
    masters = {first: turn.masters[first], second: turn.masters[second] + 1e-6}
    snapshot = Snapshot(
        turn.served, masters, turn.originals, turn.state, turn.settings, turn.version
    )
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=None)
    assert_same_snapshot(read(tmp_path / "out"), snapshot)


def test_nan_and_negative_zero_come_back_bit_for_bit(
    build, session, modules, tokenizer, tmp_path, assert_same_snapshot
):
    model = build("llama").bfloat16()
    snapshot = session(model, modules["llama"]).turn()
    name = modules["llama"][0]
    snapshot.served[name][0, :3] = torch.tensor([float("nan"), -0.0, float("-inf")])
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=None)
    assert_same_snapshot(read(tmp_path / "out"), snapshot)


def test_a_turn_leaves_the_base_alone_and_the_old_version_goes(
    build, session, modules, tokenizer, tmp_path, dtype, assert_serves, assert_same_snapshot
):
    model = build("llama").to(dtype)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    out = tmp_path / "out"
    editing = session(model, modules["llama"])
    options = {"model": model, "tokenizer": tokenizer, "source": tmp_path / "model"}
    write(out, editing.turn(), **options)
    lasting = [
        *out.glob("model-base*"),
        out / "ultraedit/originals.safetensors",
        out / "config.json",
    ]
    assert len(lasting) > 5
    before = {path: (os.stat(path).st_ino, os.stat(path).st_mtime_ns) for path in lasting}
    files = len(list(out.rglob("*")))
    for _ in range(3):
        snapshot = editing.turn()
        write(out, snapshot, **options)
    assert {p: (os.stat(p).st_ino, os.stat(p).st_mtime_ns) for p in lasting} == before
    assert len(list(out.rglob("*"))) == files
    assert (out / "model-edited.safetensors").is_file()
    assert_serves(out, model)
    assert_same_snapshot(read(out), snapshot)


def test_the_edited_shard_is_the_only_weight_file_of_a_turn(
    build, session, modules, tokenizer, tmp_path
):
    model = build("llama")
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    write(
        out,
        session(model, modules["llama"]).turn(),
        model=model,
        tokenizer=tokenizer,
        source=tmp_path / "model",
    )
    with safe_open(out / "model-edited.safetensors", framework="pt") as shard:
        assert sorted(shard.keys()) == modules["llama"]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    state = model.state_dict()
    size = sum(state[key].numel() * state[key].element_size() for key in index["weight_map"])
    assert index["metadata"]["total_size"] == size


def test_a_version_may_be_written_again_and_may_go_back(
    build, session, modules, tokenizer, tmp_path, assert_serves, assert_same_snapshot
):
    model = build("llama").bfloat16()
    editing = session(model, modules["llama"])
    out = tmp_path / "out"
    for version in (2, 2, 2, 0, 1):
        editing.version = version - 1
        snapshot = editing.turn()
        write(out, snapshot, model=model, tokenizer=tokenizer, source=None)
        assert_serves(out, model)
        assert_same_snapshot(read(out), snapshot)
        assert len(list(out.glob("model-edited*"))) == 1


def test_a_method_that_changes_no_weights_can_be_written(
    build, tokenizer, tmp_path, assert_serves, assert_same_snapshot
):
    model = build("llama")
    model.save_pretrained(tmp_path / "model")
    for version in (1, 2):
        snapshot = Snapshot({}, {}, {}, {"memory": torch.randn(4, version)}, {}, version)
        write(
            tmp_path / "out",
            snapshot,
            model=model,
            tokenizer=tokenizer,
            source=tmp_path / "model",
        )
        assert_same_snapshot(read(tmp_path / "out"), snapshot)
        assert_serves(tmp_path / "out", model)


def test_the_model_object_is_left_as_it_was(build, session, modules, tokenizer, tmp_path):
    model = build("llama").bfloat16()
    snapshot = session(model, modules["llama"]).turn()
    model.save_pretrained(tmp_path / "model")
    config, weights = model.config.to_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=tmp_path / "model")
    assert model.config.to_dict() == config
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


def test_only_a_new_folder_or_an_edited_model_is_written_to(
    build, session, modules, tokenizer, tmp_path
):
    model = build("llama")
    model.save_pretrained(tmp_path / "model")
    snapshot = session(model, modules["llama"]).turn()
    options = {"model": model, "tokenizer": tokenizer, "source": tmp_path / "model"}
    kept = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(InputError, match="model is not empty and is no edited model"):
        write(tmp_path / "model", snapshot, **options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == kept
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="file is a file"):
        write(tmp_path / "file", snapshot, **options)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", snapshot, **options)
    write(tmp_path / "new" / "in" / "new", snapshot, **options)
    assert read(tmp_path / "empty").version == read(tmp_path / "new/in/new").version == 1


def test_a_folder_in_a_file_is_one_line(build, session, modules, tokenizer, tmp_path):
    model = build("llama")
    (tmp_path / "file").write_text("text")
    with pytest.raises(UltraEditError, match=r"file.*Not a directory") as caught:
        write(
            tmp_path / "file" / "out",
            session(model, modules["llama"]).turn(),
            model=model,
            tokenizer=tokenizer,
            source=None,
        )
    assert "\n" not in str(caught.value)


def test_edits_of_another_model_or_of_other_modules_are_not_overwritten(
    build, session, modules, tokenizer, tmp_path, assert_same_snapshot
):
    out = tmp_path / "out"
    model = build("llama")
    snapshot = session(model, modules["llama"]).turn()
    write(out, snapshot, model=model, tokenizer=tokenizer, source=None)
    other = build("llama", seed=1)
    for names, wrong in ((modules["llama"], other), (modules["llama"][:1], model)):
        turn = session(wrong, names).turn()
        with pytest.raises(InputError, match="out holds edits of other modules or of another"):
            write(out, turn, model=wrong, tokenizer=tokenizer, source=None, update=gap(turn))
        assert_same_snapshot(read(out), snapshot)


def test_settings_that_json_cannot_hold_are_refused_before_anything_is_written(
    build, session, modules, tokenizer, tmp_path
):
    model = build("llama")
    turn = session(model, modules["llama"]).turn()
    snapshot = Snapshot(turn.served, turn.masters, turn.originals, {}, {"lr": torch.tensor(1.0)}, 1)
    with pytest.raises(TypeError):
        write(tmp_path / "out", snapshot, model=model, tokenizer=tokenizer, source=None)
    assert not (tmp_path / "out").exists()


def test_bits_are_compared_not_values():
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits(nan, nan.clone())
    assert same_bits(torch.eye(3)[:, 1:], torch.eye(3)[:, 1:].contiguous())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2, 3), torch.zeros(3, 2))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masters": {}}, "same keys"),
        ({"masters": {"a": torch.zeros(2, 3).half()}}, "master of a"),
        ({"originals": {"a": torch.zeros(3, 2)}}, "original of a"),
        ({"version": -1}, "negative"),
    ],
)
def test_a_snapshot_whose_parts_do_not_fit_is_refused(change, message):
    weights = {"a": torch.zeros(2, 3)}
    parts = {"served": weights, "masters": weights, "originals": weights, "version": 1}
    with pytest.raises(ValueError, match=message):
        Snapshot(**{**parts, "state": {}, "settings": {}, **change})
