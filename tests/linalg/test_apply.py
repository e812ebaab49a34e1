import pytest
import torch
from torch import nn

from ultraedit.linalg.apply import MasterWeight, shifted
from ultraedit.linalg.shift import Dense, LowRank


def low_rank(n, d, e, generator):
    return LowRank(
        torch.randn(n, d, generator=generator),
        torch.randn(n, e, generator=generator),
        torch.arange(n) // 2,
    )


@pytest.mark.parametrize("transposed", [True, False])
def test_low_rank_and_dense_agree_in_both_layouts(transposed, generator):
    shift = low_rank(4, 6, 5, generator)
    weight = torch.randn((5, 6) if transposed else (6, 5), generator=generator)
    delta = shift.left.T @ shift.right
    expected = weight + (delta.T if transposed else delta)
    torch.testing.assert_close(shifted(weight, shift, transposed), expected)
    torch.testing.assert_close(shifted(weight, Dense(delta), transposed), expected)


def test_a_shift_of_another_shape_is_refused(generator):
    with pytest.raises(ValueError, match="does not fit"):
        shifted(torch.zeros(5, 6), low_rank(2, 5, 6, generator), transposed=True)


def test_the_rows_of_the_edits_make_up_the_shift(generator):
    shift = low_rank(6, 4, 3, generator)
    parts = [shift.of_edits([edit]) for edit in range(3)]
    assert [len(part.left) for part in parts] == [2, 2, 2]
    torch.testing.assert_close(sum(part.dense() for part in parts), shift.dense())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_too_small_for_the_served_dtype_add_up(dtype, generator):
    """A step far below half a unit in the last place of the weight, 400 times."""
    start = torch.full((3, 4), 0.5, dtype=dtype)
    parameter = nn.Parameter(start.clone())
    weight = MasterWeight.of(parameter, transposed=True)
    step = Dense(torch.full((4, 3), 1e-4))
    naive = start.clone()
    for _ in range(400):
        weight.add(step)
        naive += step.delta.T.to(dtype)
    assert torch.equal(naive, start), "the step is meant to be lost without a master"
    torch.testing.assert_close(weight.master, torch.full((3, 4), 0.54))
    assert torch.equal(parameter.detach(), weight.master.to(dtype))


def test_a_float32_parameter_is_its_own_master(generator):
    parameter = nn.Parameter(torch.randn(3, 4, generator=generator))
    weight = MasterWeight.of(parameter, transposed=True)
    original, storage = parameter.detach().clone(), parameter.data_ptr()
    weight.add(low_rank(2, 4, 3, generator))
    assert weight.master.data_ptr() == parameter.data_ptr() == storage
    assert torch.equal(weight.original, original)
    assert not torch.equal(parameter.detach(), original)


def test_serving_another_weight_keeps_the_master_of_a_half_model():
    weight = MasterWeight.of(nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)), True)
    weight.serve(torch.zeros(2, 2))
    assert torch.equal(weight.master, torch.ones(2, 2))
