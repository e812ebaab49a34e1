import logging

import pytest
import torch

from ultraedit import InputError, TurnRefusedError
from ultraedit.encoding.batching import collate
from ultraedit.forward.forward import forward
from ultraedit.methods.locate import covariance
from ultraedit.methods.locate.covariance import Source, covariances, factor
from ultraedit.methods.sample_text import drawn, of_file
from ultraedit.storage.cache import cache_folder

LINE = "the capital of france is paris and jazz guitar was born in the city\n"
# What fits into the tiny models, with the token it begins with.
TOKENS = 63


def one_by_one(workbench, name, texts):
    """E[k k^T] in float64, a text at a time, every token but the first."""
    seen = []
    module = workbench.targets[name].module
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0].double()))
    for text in texts:
        with torch.no_grad():
            forward(workbench.model, collate([text], [0], "cpu", 0))
    handle.remove()
    keys = torch.cat([rows.reshape(-1, rows.shape[-1])[1:] for rows in seen])
    return keys.T @ keys / len(keys)


def test_it_is_the_mean_over_a_files_tokens(make, architecture, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(LINE * 30)
    workbench = make("rome", architecture).workbench
    found = covariances(workbench, Source(str(path), 300))
    texts = of_file(workbench, str(path), -(-300 // TOKENS), TOKENS)
    for name, matrix in found.items():
        expected = one_by_one(workbench, name, texts)
        torch.testing.assert_close(matrix.double(), expected, rtol=1e-3, atol=1e-4)


def test_by_default_it_is_over_what_the_model_says(make, monkeypatch):
    monkeypatch.setattr(covariance, "TOGETHER", 8)
    monkeypatch.setattr("ultraedit.methods.sample_text.SAMPLED", 8)
    workbench = make("memit").workbench
    found = covariances(workbench, Source(None, 400))
    for count in (8, 16, 24, 32, 40, 48):
        texts = drawn(workbench, count, TOKENS)
        if sum(len(text.ids) - 2 for text in texts) >= 400:
            break
    for name, matrix in found.items():
        expected = one_by_one(workbench, name, texts)
        torch.testing.assert_close(matrix.double(), expected, rtol=1e-3, atol=1e-4)


def test_it_is_measured_once_for_a_model_and_not_for_another(make, build, edits, monkeypatch):
    asked = []
    own = covariance._measured

    def counted(workbench, names, *rest):
        asked.append(tuple(names))
        return own(workbench, names, *rest)

    monkeypatch.setattr(covariance, "_measured", counted)
    editor = make("rome")
    first = covariances(editor.workbench, Source(None, 200))
    # What was edited since is not measured, nor is it another model.
    editor.edit(edits)
    again = covariances(editor.workbench, Source(None, 200))
    assert len(asked) == 1
    assert all(torch.equal(first[name], again[name]) for name in first)
    # Of several modules only those that are missing.
    both = make("memit")
    covariances(both.workbench, Source(None, 200))
    assert asked[1:] == [tuple(n for n in both.modules if n not in first)]
    covariances(editor.workbench, Source(None, 150))
    with torch.no_grad():
        other = make("rome")
        other.model.get_input_embeddings().weight[7, 0] += 1e-3
    found = covariances(other.workbench, Source(None, 200))
    assert len(asked) == 4
    assert all(not torch.equal(first[name], found[name]) for name in first)


def test_an_interrupted_measurement_goes_on_to_the_same_bits(make, monkeypatch):
    monkeypatch.setattr(covariance, "TOGETHER", 4)
    monkeypatch.setattr(covariance, "SECONDS", -1.0)
    whole = covariances(make("rome").workbench, Source(None, 2000))
    for path in cache_folder().rglob("*.safetensors"):
        path.unlink()
    own, parts = covariance._add, []

    def interrupted(workbench, names, texts, sums):
        parts.append(1)
        if len(parts) == 4:
            raise KeyboardInterrupt
        return own(workbench, names, texts, sums)

    monkeypatch.setattr(covariance, "_add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        covariances(make("rome").workbench, Source(None, 2000))
    assert list(cache_folder().rglob("*.unfinished"))
    told = []
    workbench = make("rome").workbench

    class Bar:
        def __enter__(self):
            return told.append

        def __exit__(self, *error):
            return None

    workbench.progress = lambda what, total: Bar()
    again = covariances(workbench, Source(None, 2000))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert told[0] > 0
    assert sum(told) == 2000
    assert not list(cache_folder().rglob("*.unfinished"))
    assert len(parts) > 5


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all"])
def test_a_damaged_file_is_measured_again(make, caplog, damage):
    first = covariances(make("rome").workbench, Source(None, 200))
    (path,) = cache_folder().rglob("*.safetensors")
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        again = covariances(make("rome").workbench, Source(None, 200))
    assert "measured again" in caplog.text
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_a_place_to_keep_it_it_is_measured_all_the_same(
    make, monkeypatch, tmp_path, caplog
):
    expected = covariances(make("rome").workbench, Source(None, 200))
    monkeypatch.setenv("ULTRAEDIT_CACHE", "")
    for name, matrix in covariances(make("rome").workbench, Source(None, 200)).items():
        assert torch.equal(matrix, expected[name])
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ULTRAEDIT_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        covariances(make("rome").workbench, Source(None, 200))
    assert "is not kept" in caplog.text


def test_a_file_that_cannot_be_read_is_named(make, tmp_path):
    with pytest.raises(InputError, match=r"none\.txt"):
        covariances(make("rome").workbench, Source(str(tmp_path / "none.txt"), 100))


def test_features_that_no_text_uses_do_not_stop_it(generator):
    rows = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    rows[:, 3] = 0
    c = rows.T @ rows / 50
    found = factor(c.float())
    torch.testing.assert_close(found @ found.T, c, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="not positive"):
        factor(torch.full((4, 4), float("nan")))


@pytest.mark.parametrize("tokens", [3, 20, 60])
def test_fewer_tokens_than_features_do_not_stop_it(make, tmp_path, edits, tokens):
    path = tmp_path / "notes.txt"
    path.write_text(LINE * 10)
    editor = make("rome", text=str(path), samples=tokens, steps=1)
    assert editor.edit(edits).passes == 3
    editor.method.detach()


def test_a_model_that_draws_nothing_is_told_of_files(make):
    workbench = make("rome").workbench
    with torch.no_grad():
        head = workbench.model.get_output_embeddings()
        head.weight.zero_()
        bias = torch.zeros(head.weight.shape[0])
        bias[workbench.tokenizer.eos_token_id] = 1e4
        head.bias = torch.nn.Parameter(bias)
    workbench.passes.prefix = None
    with pytest.raises(InputError, match="text=FILE"):
        covariances(workbench, Source(None, 100))


def test_what_is_not_finite_is_not_kept(make, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(LINE * 10)
    workbench = make("rome").workbench
    with torch.no_grad():
        workbench.model.get_decoder().layers[0].mlp.up_proj.weight[3] = float("inf")
    with pytest.raises(TurnRefusedError, match="not finite"):
        covariances(workbench, Source(str(path), 100))
    assert not list(cache_folder().rglob("*.safetensors"))
