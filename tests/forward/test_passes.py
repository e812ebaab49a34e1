import functools
import logging
import math

import pytest
import torch
from transformers import DynamicCache

from ultraedit import Edit, Editor
from ultraedit import workbench as bench_module
from ultraedit.encoding.batching import collate
from ultraedit.encoding.plan import MOST_PARTS
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.forward import cache_argument
from ultraedit.forward.passes import Passes, _near
from ultraedit.models.discover import decoder_blocks

EDITS = [Edit("the capital of france is", "jazz"), Edit("who plays", "guitar")]


@pytest.mark.parametrize("architecture", ["mistral", "gemma3"])
@pytest.mark.parametrize("method", ["ultraedit", "anchored"])
def test_prompts_past_a_sliding_window_are_read_as_the_model_reads_them(
    build, tokenizer, quick, architecture, method
):
    model = build(architecture)
    assert model.config.get_text_config(decoder=True).sliding_window == 8
    editor = Editor(model, tokenizer, method=method, **quick(method))
    texts = [
        editor.workbench.encoder.encode(prompt, "paris")
        for prompt in ("what is the capital city of france where jazz guitar plays in", "who plays")
    ]
    assert len(texts[0].prompt) > 12
    for text, scored in zip(texts, editor.workbench.score(texts), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([text.ids])).logits[0]
        first = len(text.prompt) - 1
        expected = torch.nn.functional.cross_entropy(
            logits[first:-1], torch.tensor(text.target), reduction="none"
        )
        torch.testing.assert_close(scored.losses, expected, rtol=1e-4, atol=1e-4)
    rows = editor.workbench.capture(texts)
    editor.workbench.forget()
    editor.workbench.passes.prefix, editor.workbench.passes.split = None, False
    for name, whole in editor.workbench.capture(texts).items():
        torch.testing.assert_close(rows[name].inputs, whole.inputs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows[name].gradients, whole.gradients, rtol=1e-3, atol=1e-5)


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.name.startswith("ultraedit")]


@pytest.mark.parametrize("fault", ["side channel", "keyword"])
def test_a_structure_that_needs_more_of_frozen_blocks_runs_them_with_one_line(
    build, tokenizer, caplog, fault
):
    model = build("llama")
    _, blocks = decoder_blocks(model)
    told = {}
    plain_first, plain_last = blocks[0].forward, blocks[3].forward

    def first(hidden_states, *args, **kwargs):
        told["hidden"] = hidden_states
        told["count"] = told.get("count", 0) + 1
        return plain_first(hidden_states, *args, **kwargs)

    def last(hidden_states, *args, **kwargs):
        extra = told["hidden"] * told["count"] if fault == "side channel" else told.pop("hidden")
        return plain_last(hidden_states + extra, *args, **kwargs)

    blocks[0].forward, blocks[3].forward = first, last
    editor = Editor(model, tokenizer, lr=1e-3, method="ultraedit")
    editor.workbench.passes.split = False
    with caplog.at_level(logging.WARNING, logger="ultraedit"):
        for _ in range(2):
            editor.edit(EDITS)
    assert editor.workbench.passes.prefix is None
    (line,) = warnings_of(caplog)
    assert "frozen blocks are run in every pass" in line
    assert blocks[0].forward is first


def test_a_model_whose_answers_need_more_than_keys_is_read_whole_with_one_line(
    build, tokenizer, caplog
):
    def running_mean(module, args, output):
        counts = torch.arange(1, output.shape[1] + 1).view(1, -1, 1)
        return output + output.cumsum(1) / counts

    def edited(plain):
        model = build("llama")
        # Something recurrent beside attention, of which no cache knows.
        decoder_blocks(model)[1][3].mlp.register_forward_hook(running_mean)
        editor = Editor(model, tokenizer, lr=1e-3, method="ultraedit")
        if plain:
            editor.workbench.passes.prefix, editor.workbench.passes.split = None, False
        # One at a time: padding would count in this mean.
        for edit in EDITS:
            editor.edit([edit])
        return editor

    with caplog.at_level(logging.WARNING, logger="ultraedit"):
        editor = edited(plain=False)
    assert not editor.workbench.passes.split
    assert editor.workbench.passes.prefix is not None
    (line,) = warnings_of(caplog)
    assert "prompts are not read apart" in line
    for name, master in edited(plain=True).workbench.masters.items():
        found = editor.workbench.masters[name].master
        torch.testing.assert_close(found, master.master, rtol=1e-4, atol=1e-6)


def test_a_model_with_a_cache_of_its_own_is_read_whole(build, tokenizer, caplog):
    model = build("llama")
    plain = model.forward

    @functools.wraps(plain)
    def forward(*args, **kwargs):
        if type(kwargs.get(cache_argument(model))) not in (type(None), DynamicCache):
            raise TypeError("this model keeps keys of its own kind")
        return plain(*args, **kwargs)

    model.forward = forward
    editor = Editor(model, tokenizer, lr=1e-3, method="ultraedit")
    with caplog.at_level(logging.WARNING, logger="ultraedit"):
        assert len(editor.edit(EDITS).learned) == 2
    assert len(warnings_of(caplog)) == 1


def test_what_is_differentiated_whole_is_read_in_smaller_batches(build, tokenizer, monkeypatch):
    workbench = Editor(
        build("llama"), tokenizer, lr=1e-3, batch_tokens=40, method="ultraedit"
    ).workbench
    texts = [Encoded((1, 5, 6, 7), (8,), 1)] * 30
    seen = []

    def sizes(model, modules, batches, *others):
        seen.extend(batch.input_ids.numel() for batch in batches)

    monkeypatch.setattr(bench_module, "capture_spots", sizes)
    workbench.passes.split = False
    workbench.passes.checked = True
    workbench.capture_spots(texts, [(1,)] * 30)
    assert sum(seen) == 30 * 4
    assert max(seen) <= 40 // MOST_PARTS


def test_models_of_the_tests_need_no_way_around(build, architecture, tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="ultraedit"):
        editor = Editor(build(architecture), tokenizer, lr=1e-3, method="ultraedit")
        editor.edit(EDITS)
    assert editor.workbench.passes.checked
    assert editor.workbench.passes.prefix is not None
    assert editor.workbench.passes.split
    assert not warnings_of(caplog)


def test_an_interrupted_check_is_made_again(build, tokenizer, monkeypatch):
    editor = Editor(build("llama"), tokenizer, lr=1e-3, method="ultraedit")
    passes = editor.workbench.passes

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(passes.prefix, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        editor.edit(EDITS)
    assert not passes.checked
    monkeypatch.undo()
    editor.edit(EDITS)
    assert passes.checked
    assert passes.prefix is not None


def test_tables_that_depend_on_the_longest_text_are_read_whole(build, generator, monkeypatch):
    """`dynamic` and `longrope` look at a whole pass: its parts would see other tables."""
    model = build("llama")
    assert Passes(model).switch == math.inf
    model.config.rope_parameters = {
        "rope_type": "dynamic", "original_max_position_embeddings": 6,
    }  # fmt: skip
    passes = Passes(model, split_tokens=0)
    assert passes.switch == 6

    def refused(*args):
        raise AssertionError("read apart")

    monkeypatch.setattr("ultraedit.forward.passes.split_logits", refused)
    with torch.no_grad():
        passes(collate([Encoded((3, 4, 5, 6), (7, 8, 9, 9), 1)], [0], "cpu", 0, "both"))
        passes.switch = 7
        with pytest.raises(AssertionError, match="read apart"):
            passes(collate([Encoded((3, 4, 5, 6), (7, 8, 9, 9), 1)], [0], "cpu", 0, "both"))


def test_what_all_logits_have_in_common_does_not_hide_a_difference(generator):
    plain = torch.randn(4, 50, generator=generator)
    other = torch.randn(4, 50, generator=generator)
    assert not _near(other - 1000, plain - 1000, 0.1)
    assert _near(plain + 0.01 * other, plain, 0.1)
