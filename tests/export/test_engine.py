"""llama.cpp itself reads what is exported."""

import pytest

from tiny_gguf import write_tiny
from ultraedit import Edit, Editor
from ultraedit.export import gguf, lora

xllamacpp = pytest.importorskip("xllamacpp", reason="package xllamacpp holds llama.cpp")

EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris", id="b"),
    Edit("where in city", "born", id="c"),
]
PROMPTS = [edit.prompt for edit in EDITS] + ["what is paris", "person in france", "jazz guitar was"]


@pytest.fixture
def editor(tokenizer, tmp_path):
    # In float32 throughout, the two programs differ by rounding alone.
    base = write_tiny(tmp_path / "base.gguf", tokenizer, kind="F32")
    editor = Editor.from_pretrained(
        base, method="ultraedit", lr=0.2, append_eos=False, dtype="float32"
    )
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    return editor


@pytest.fixture
def answers_of(editor):
    """`answers_of(file, adapter)`: what llama.cpp says to every prompt."""

    def ask(file, adapter=None):
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = 128
        params.verbosity = 0
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        server = xllamacpp.Server(params)
        asked = {"temperature": 0.0, "max_tokens": 4}
        return [
            server.handle_completions({"prompt": prompt, **asked})["choices"][0]["text"]
            .split("\n")[0].strip()
            for prompt in PROMPTS
        ]  # fmt: skip

    return ask


def test_the_replaced_file_answers_as_the_edited_model(editor, answers_of, tmp_path):
    wanted = [editor.ask(prompt, 4) for prompt in PROMPTS]
    with editor.unedited():
        before = [editor.ask(prompt, 4) for prompt in PROMPTS]
    assert answers_of(tmp_path / "base.gguf") == before != wanted
    gguf.write(tmp_path / "out", tmp_path / "new.gguf", kind="f32")
    assert answers_of(tmp_path / "new.gguf") == wanted


def test_the_base_with_the_adapter_answers_as_the_edited_model(editor, answers_of, tmp_path):
    wanted = [editor.ask(prompt, 4) for prompt in PROMPTS]
    lora.write(tmp_path / "out", tmp_path / "a.gguf", rank=10_000, form="gguf-lora")
    assert answers_of(tmp_path / "base.gguf", tmp_path / "a.gguf") == wanted
