import pytest
import torch

from ultraedit.core import apply, metric, solve
from ultraedit.core.full_precision import full_precision
from ultraedit.core.shift import LowRank

MATMUL = torch.backends.cuda.matmul


@pytest.fixture
def tf32():
    before = MATMUL.fp32_precision
    MATMUL.fp32_precision = "tf32"
    yield
    MATMUL.fp32_precision = before


def test_tf32_is_refused_inside_and_allowed_again_after(tf32):
    with full_precision():
        assert MATMUL.fp32_precision == "ieee"
        with full_precision():
            pass
        assert MATMUL.fp32_precision == "ieee"
    assert MATMUL.fp32_precision == "tf32"
    with pytest.raises(ValueError), full_precision():
        raise ValueError
    assert MATMUL.fp32_precision == "tf32"


def test_solves_inversions_and_sums_refuse_it(tf32, monkeypatch):
    seen = []

    def watched(name):
        plain = getattr(torch.Tensor, name)

        def product(*args, **kwargs):
            seen.append(MATMUL.fp32_precision)
            return plain(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, product)

    for name in ("__matmul__", "addmm_"):
        watched(name)
    keys, gradients, inverse = torch.randn(3, 4), torch.randn(3, 2), torch.eye(4)
    metric.directions(keys, gradients, inverse, torch.ones(2))
    solve.ridge_rows(keys, gradients)
    shift = LowRank(keys, gradients, torch.arange(3))
    apply.add_shift(torch.zeros(2, 4), shift, transposed=True)
    assert len(seen) >= 4
    assert set(seen) == {"ieee"}
    assert MATMUL.fp32_precision == "tf32"
