import torch

from overlays import names_of, random_overlay, with_weights
from ultraedit.service.overlay import NOTHING, Overlaid


def test_rows_are_answered_as_by_their_own_weights(build, architecture, generator):
    model = build(architecture)
    names = names_of(model)
    assert names
    one, two = (random_overlay(model, names, rank, generator) for rank in (1, 3))
    ids = torch.randint(3, 20, (5, 7), generator=generator)
    overlaid = Overlaid(model)
    with torch.no_grad():
        plain = model(ids).logits
        with overlaid.rows([one, one, NOTHING, two, one]):
            mixed = model(ids).logits
        for overlay, rows in ((one, [0, 1, 4]), (NOTHING, [2]), (two, [3])):
            expected = with_weights(build, architecture, overlay)(ids).logits
            torch.testing.assert_close(mixed[rows], expected[rows], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(mixed[0], plain[0], atol=1e-3)
        # Outside nothing is added.
        assert torch.equal(model(ids).logits, plain)
    overlaid.close()
    assert all(not module._forward_hooks for module in model.modules())


def test_sums_of_overlays(build, generator):
    model = build("llama")
    names = names_of(model)
    one, two = (
        random_overlay(model, names, 2, generator),
        random_overlay(model, names[:1], 3, generator),
    )
    both = one.plus(two)
    assert both.rank == 5
    assert both.bytes == one.bytes + two.bytes
    assert one.plus(NOTHING).factors == one.factors
    ids = torch.randint(3, 20, (1, 6), generator=generator)
    with torch.no_grad():
        overlaid = Overlaid(model)
        assert overlaid.always(both) is True
        assert overlaid.always(both) is False
        found = model(ids).logits
        expected = with_weights(build, "llama", one)
        for name, (first, second) in two.factors.items():
            expected.get_parameter(f"{name}.weight").data += (first @ second).T
        torch.testing.assert_close(found, expected(ids).logits, rtol=1e-4, atol=1e-4)
