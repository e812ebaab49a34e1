"""Random overlays, and the models whose weights have them added."""

import torch

from ultraedit.methods.registry import method_class
from ultraedit.models.presets import choose_modules
from ultraedit.service.overlay import Overlay


def random_overlay(model, names, rank, generator, scale=0.05):
    found = {}
    for name in names:
        weight = model.get_parameter(f"{name}.weight")
        conv1d = type(model.get_submodule(name)).__name__ == "Conv1D"
        d, e = weight.shape if conv1d else weight.shape[::-1]
        found[name] = (
            scale * torch.randn(d, rank, generator=generator),
            torch.randn(rank, e, generator=generator),
        )
    return Overlay(found)


def names_of(model):
    return list(choose_modules(model, "auto", method_class("auto").modules))


def with_weights(build, architecture, overlay):
    """The same model with the overlay added to its weights."""
    model = build(architecture)
    for name, (first, second) in overlay.factors.items():
        weight = model.get_parameter(f"{name}.weight")
        added = first @ second
        weight.data += added if added.shape == weight.shape else added.T
    return model
