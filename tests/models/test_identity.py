import pytest
import torch

from ultraedit.models.identity import model_digest


def test_the_same_values_have_the_same_digest(build):
    one = model_digest(build("llama"))
    assert len(one) == 64
    assert model_digest(build("llama")) == one
    assert model_digest(build("llama").train()) == one


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_last_bit_of_any_weight_counts(build, architecture):
    model = build(architecture)
    before = model_digest(model)
    for name, parameter in list(model.named_parameters())[::5]:
        flat = parameter.data.view(-1)
        kept = flat[-1].clone()
        flat[-1] = torch.nextafter(kept, kept + 1)
        assert model_digest(model) != before, name
        flat[-1] = kept
    assert model_digest(model) == before


def test_half_precision_and_other_models_differ(build):
    digests = {
        model_digest(build("llama")),
        model_digest(build("llama").to(torch.bfloat16)),
        model_digest(build("llama").to(torch.float16)),
        model_digest(build("qwen2")),
        model_digest(build("llama", seed=1)),
    }
    assert len(digests) == 5


def test_what_is_not_in_memory_counts_by_name_and_origin(build):
    model = build("llama").to("meta")
    one = model_digest(model)
    assert model_digest(build("llama").to("meta")) == one
    model.config._name_or_path = model.name_or_path = "elsewhere"
    assert model_digest(model) != one
