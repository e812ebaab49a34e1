import pytest
import torch

from ultraedit.linalg import apply, metric, solve
from ultraedit.linalg.full_precision import full_precision
from ultraedit.linalg.shift import LowRank

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
    # A function of the module torch, not a method.
    plain_addmm = torch.addmm

    def addmm(*args, **kwargs):
        seen.append(MATMUL.fp32_precision)
        return plain_addmm(*args, **kwargs)

    monkeypatch.setattr(torch, "addmm", addmm)
    keys, gradients, inverse = torch.randn(3, 4), torch.randn(3, 2), torch.eye(4)
    shift = LowRank(keys, gradients, torch.arange(3))
    found = metric.directions(keys, gradients, inverse)
    for product, least in (
        (lambda: metric.directions(keys, gradients, inverse), 3),
        (lambda: metric.absorbed(inverse, found.left, found.system, 0.5), 1),
        (lambda: solve.ridge_rows(keys, gradients), 1),
        (lambda: apply.add_shift(torch.zeros(2, 4), shift, transposed=True), 1),
        (shift.dense, 1),
    ):
        seen.clear()
        product()
        assert len(seen) >= least
        assert set(seen) == {"ieee"}
    assert MATMUL.fp32_precision == "tf32"
