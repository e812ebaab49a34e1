import math

import pytest
import torch

from ultraedit import Edit, Editor
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.score import Scored
from ultraedit.methods.ultraedit.learning_rate import balance, imaginary_edits

EDITS = [Edit(f"who plays {word}", "paris") for word in ("jazz", "guitar", "city")]


def scored(*probabilities):
    losses = -torch.tensor(probabilities).log()
    return Scored(losses, losses < 0.5, len(probabilities))


def test_keeping_is_the_overlap_of_the_distributions(generator):
    """Sampled min(1, q/p) against the sum of min(p, q) it estimates."""
    p, q = (torch.rand(50, generator=generator).softmax(0) for _ in range(2))
    drawn = torch.multinomial(p, 20000, replacement=True, generator=generator)
    kept = balance([scored(1.0)], [scored(*p[drawn].tolist())], [scored(*q[drawn].tolist())])
    assert kept == pytest.approx((2 + float(torch.minimum(p, q).sum())) / 3, abs=0.01)


def test_learning_is_the_mean_probability_of_target_tokens_per_text():
    same = [scored(0.5)]
    value = balance([scored(0.8), scored(0.1, 0.3)], same, same)
    assert value == pytest.approx((2 * (0.8 + 0.2) / 2 + 1) / 3)


def test_an_appended_end_of_sequence_does_not_count_as_learning():
    same = [scored(0.5)]
    ended = Scored(torch.zeros(3), torch.ones(3, dtype=torch.bool), 2)
    ended.losses[:2] = -torch.tensor([0.2, 0.4]).log()
    assert balance([ended], same, same) == pytest.approx((2 * 0.3 + 1) / 3)


def test_a_model_driven_to_infinity_counts_as_unlearned():
    broken = Scored(torch.tensor([math.nan]), torch.tensor([False]), 1)
    assert balance([broken], [scored(0.5)], [broken]) == 0


def test_made_up_edits_take_beginning_and_target_from_different_texts():
    material = [Encoded((1,), tuple(range(10 * i, 10 * i + 8)), 8) for i in range(4)]
    material.append(Encoded((1,), (7, 7), 2))
    edits = imaginary_edits(material, 3)
    assert len(edits) == 3
    for i, edit in enumerate(edits):
        assert edit.prompt == (1, *range(10 * i, 10 * i + 6))
        assert all(token // 10 == (i + 1) % 4 for token in edit.target)
    assert imaginary_edits(material, 0) == []
    assert len(imaginary_edits(material, 99)) == 4


def test_the_step_is_found_once_and_kept(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit")
    assert editor.method.lr is None
    editor.edit(EDITS)
    found = editor.method.lr
    assert found > 0
    editor.edit(EDITS[:1])
    assert editor.method.lr == found


def test_looking_for_it_changes_nothing(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method="ultraedit")
    before = {n: m.copy() for n, m in editor.workbench.masters.items()}
    texts = [editor.workbench.encoder.encode(e.prompt, e.answers[0]) for e in EDITS]
    shifts = editor.method.passes(editor.workbench, EDITS, texts)
    next(shifts)
    assert all(torch.equal(before[n], m.master) for n, m in editor.workbench.masters.items())
    assert editor.method.lr is None, "a turn that is not taken leaves no trace"


def test_scaling_the_model_scales_the_step_with_it(build, tokenizer):
    """The outputs of a module count e-fold less when what reads them is scaled down."""
    found = []
    for factor in (1.0, 4.0):
        model = build("llama")
        with torch.no_grad():
            for layer in model.model.layers:
                for linear in (layer.mlp.down_proj, layer.self_attn.o_proj):
                    linear.weight.mul_(factor)
            model.model.embed_tokens.weight.mul_(factor)
        editor = Editor(model, tokenizer, method="ultraedit")
        editor.edit(EDITS)
        found.append(editor.method.lr)
    assert found[1] == pytest.approx(4 * found[0], rel=0.5)
