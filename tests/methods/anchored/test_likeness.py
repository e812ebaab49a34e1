import pytest
import torch

from ultraedit.methods.anchored import derive, likeness
from ultraedit.methods.anchored.likeness import Likeness


def keys(generator, count, width=24):
    """Of very different sizes in every direction, and with a large part in common."""
    scale = torch.logspace(-2, 1, width)
    return torch.randn(count, width, generator=generator) * scale + 10


def cosines(tokens, asked):
    """float64, whitened by the tokens' own second moment."""
    tokens = torch.nn.functional.normalize(tokens.double(), dim=1)
    asked = torch.nn.functional.normalize(asked.double(), dim=1)
    moment = tokens.T @ tokens / len(tokens)
    moment += derive.FLOOR * moment.diagonal().mean() * torch.eye(len(moment))
    inverse = torch.linalg.inv(moment)
    size = [torch.einsum("nd,de,ne->n", x, inverse, x).sqrt() for x in (tokens, asked)]
    return (tokens @ inverse @ asked.T).abs() / size[0][:, None] / size[1]


def narrowed(keys):
    return likeness.narrowed(keys, likeness.narrowing(keys.shape[1]))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(torch.seed() % 2**31)


def test_it_is_the_cosine_of_whitened_keys(generator):
    tokens, asked = keys(generator, 400), keys(generator, 3)
    held = likeness.likeness("m", 24, narrowed(tokens))
    wanted = cosines(tokens, asked).amax(1)
    clear = (wanted - derive.SAME).abs() > 0.02
    assert torch.equal(held.close(asked)[clear], (wanted >= derive.SAME)[clear])
    assert clear.sum() > 300


def test_a_key_finds_itself_whatever_its_size(generator):
    tokens = keys(generator, 300)
    held = likeness.likeness("m", 24, narrowed(tokens))
    for times in (1e-3, 1.0, 1e6):
        found = held.close(tokens[:5] * times)
        assert found[:5].all()
        assert not found.all()


def test_wide_keys_keep_their_angles(generator, monkeypatch):
    monkeypatch.setattr(likeness, "WHITENED", 64)
    monkeypatch.setattr(likeness, "SKETCH", 48)
    tokens = keys(generator, 2000, 512)
    near = tokens[:4] + 0.1 * (keys(generator, 4, 512) - 10)
    held = likeness.likeness("m", 512, narrowed(tokens))
    assert held.projection.shape == (512, 48)
    assert held.tokens.shape == (2000, 48)
    found = held.close(near)
    assert found[:4].all()
    assert found.float().mean() < 0.02


def test_nothing_is_like_no_key(generator):
    tokens = keys(generator, 30)
    held = likeness.likeness("m", 24, narrowed(tokens))
    assert not held.close(tokens[:0]).any()
    assert len(Likeness.of_nothing().close(torch.empty(2, 0))) == 0


def test_large_inputs_stay_finite(generator):
    held = likeness.likeness("m", 24, narrowed(keys(generator, 50) * 1e6))
    assert torch.isfinite(held.tokens).all()
