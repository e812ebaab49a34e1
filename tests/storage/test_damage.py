import json

import pytest
import torch

from ultraedit.errors import InputError
from ultraedit.storage import is_edited_model, read, read_settings
from ultraedit.storage.manifest import FileRecord
from unrecorded import write

FILES = [
    "model-edited.safetensors",
    "ultraedit/originals.safetensors",
    "ultraedit/masters-v00000001.safetensors",
    "ultraedit/state-v00000001.safetensors",
]
BASE = "model-base-00001-of-00001.safetensors"


@pytest.fixture
def out(build, session, modules, tokenizer, tmp_path):
    model = build("llama").bfloat16()
    folder = tmp_path / "out"
    snapshot = session(model, modules["llama"]).turn()
    write(folder, snapshot, model=model, tokenizer=tokenizer, source=None)
    found = {str(p.relative_to(folder)) for p in folder.rglob("*.safetensors")}
    assert found == {*FILES, BASE, "ultraedit/history/00000000-snapshot.safetensors"}
    return folder


@pytest.fixture
def old(out, without_journal):
    """The file that says which version counts, in a folder without a journal."""
    return without_journal(out)


def assert_named(out, name):
    with pytest.raises(InputError) as caught:
        read(out)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*FILES, BASE])
def test_a_truncated_or_missing_file_is_named(out, name):
    content = (out / name).read_bytes()
    for length in (len(content) - 1, 9, 0):
        (out / name).write_bytes(content[:length])
        assert_named(out, name)
    (out / name).unlink()
    assert_named(out, name)
    (out / name).write_bytes(content)
    read(out)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_noticed(out, name, generator):
    content = (out / name).read_bytes()
    spots = torch.randint(len(content), (20,), generator=generator).tolist()
    for spot in [0, 8, len(content) - 1, *spots]:
        altered = bytearray(content)
        altered[spot] ^= 1 << (spot % 8)
        (out / name).write_bytes(altered)
        assert_named(out, name)


def test_a_folder_that_is_no_edited_model_is_refused(build, tmp_path):
    build("llama").save_pretrained(tmp_path / "model")
    for folder in (tmp_path / "model", tmp_path / "nothing", tmp_path / "model" / "config.json"):
        assert not is_edited_model(folder)
        for reader in (read, read_settings):
            with pytest.raises(InputError, match="is no edited model"):
                reader(folder)


def test_a_reader_follows_a_writer_that_overtakes_it(
    build, session, modules, tokenizer, tmp_path, monkeypatch, assert_same_snapshot
):
    model = build("llama").bfloat16()
    editing = session(model, modules["llama"])
    options = {"model": model, "tokenizer": tokenizer, "source": None}
    write(tmp_path / "out", editing.turn(), **options)
    overtaking = [editing.turn(), editing.turn()]
    written = list(overtaking)

    def check(self, folder):
        if overtaking:
            write(tmp_path / "out", overtaking.pop(0), **options)
        return plain(self, folder)

    plain = FileRecord.check
    monkeypatch.setattr(FileRecord, "check", check)
    assert_same_snapshot(read(tmp_path / "out"), written[-1])
    assert not overtaking


def test_a_newer_format_is_refused_by_reader_and_writer(
    out, old, build, session, modules, tokenizer
):
    content = json.loads(old.read_text())
    old.write_text(json.dumps({**content, "format": content["format"] + 1, "files": {}}))
    model = build("llama").bfloat16()
    snapshot = session(model, modules["llama"]).turn()
    for action in (
        lambda: read(out),
        lambda: read_settings(out),
        lambda: write(out, snapshot, model=model, tokenizer=tokenizer, source=None),
    ):
        with pytest.raises(InputError, match=r"editor\.json has format 3"):
            action()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "1"},
        {"version": None},
        {"keys": []},
        {"settings": None},
        {"edited": {"name": "../config.json", "size": 1, "sha256": ""}},
        {"base": {"/etc/passwd": 1}},
        {"state": None},
    ],
)
def test_an_altered_editor_json_is_named(out, old, change):
    old.write_text(json.dumps(json.loads(old.read_text()) | change))
    assert_named(out, "editor.json is damaged")


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "\x00\xff"])
def test_an_editor_json_that_is_not_one_is_named(out, old, text):
    old.write_text(text, encoding="latin-1")
    assert_named(out, "editor.json is damaged")


def test_nothing_in_the_folder_is_a_pickle(out):
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {
        ".json", ".safetensors", ".db",
    }  # fmt: skip
