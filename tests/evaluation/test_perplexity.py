import math

import pytest
import torch
from torch.nn import functional as F

from ultraedit import InputError
from ultraedit.encoding.windows import windows
from ultraedit.evaluation.perplexity import perplexity


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the capital of france is paris\n" * 30, encoding="utf-8")
    return path


def test_perplexity_is_the_mean_loss(build, text, tokenizer):
    model = build("llama")
    total = count = 0
    for ids in windows(text, tokenizer, 15, 100):
        full = torch.tensor([[1, *ids]])
        with torch.no_grad():
            logits = model(full).logits[0, :-1]
        total += float(F.cross_entropy(logits, full[0, 1:], reduction="sum"))
        count += len(ids)
    measured = perplexity(model, tokenizer, text, device=torch.device("cpu"), window=16, limit=100)
    assert measured == pytest.approx(math.exp(total / count), rel=1e-5)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00bad"])
def test_bad_files_are_named(tmp_path, tokenizer, build, content):
    path = tmp_path / "broken.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.txt"):
        perplexity(build("llama"), tokenizer, path, device=torch.device("cpu"))
