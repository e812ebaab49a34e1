"""Which modules to edit: the paper's choices, and a rule for every other decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel

from ultraedit.errors import InputError, UnsupportedModelError
from ultraedit.models.discover import Projection, features, projections


@dataclass(frozen=True)
class Span:
    """The projections called `name` in blocks `first` to `last`, both included."""

    name: str
    first: int
    last: int

    def holds(self, projection: Projection) -> bool:
        return (
            projection.name.rpartition(".")[2] == self.name
            and self.first <= projection.block <= self.last
        )


@dataclass(frozen=True)
class Preset:
    """A model of the paper, known by its structure, and what the paper edits in it."""

    title: str
    model_types: tuple[str, ...]
    blocks: int
    hidden_size: int
    inner_size: int
    spans: tuple[Span, ...]

    def fits(self, model: PreTrainedModel) -> bool:
        config = model.config.get_text_config(decoder=True)
        return (
            config.model_type in self.model_types
            and config.num_hidden_layers == self.blocks
            and config.hidden_size == self.hidden_size
            and inner_size(config) == self.inner_size
        )


def inner_size(config: PretrainedConfig) -> int:
    """Width inside the MLP; GPT-J leaves it unset for four times the hidden size."""
    size = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return int(size or 4 * config.hidden_size)


# arXiv:2505.14679, the hyperparameters it was published with.
PRESETS: tuple[Preset, ...] = (
    Preset("GPT-J-6B", ("gptj",), 28, 4096, 16384, (Span("fc_out", 18, 26),)),
    Preset("Mistral-7B-v0.3", ("mistral",), 32, 4096, 14336, (Span("down_proj", 29, 30),)),
    Preset("Llama-3-8B", ("llama",), 32, 4096, 14336,
           (Span("gate_proj", 11, 15), Span("up_proj", 18, 24))),
    Preset("Qwen2.5-7B", ("qwen2",), 28, 3584, 18944,
           (Span("gate_proj", 18, 26), Span("up_proj", 18, 26))),
    Preset("Phi-4", ("phi3",), 40, 5120, 17920, (Span("down_proj", 30, 38),)),
    Preset("Gemma-3-27B", ("gemma3_text",), 62, 5376, 21504,
           (Span("gate_proj", 52, 60), Span("up_proj", 52, 60))),
)  # fmt: skip


RULE = "the MLP output projections from the middle block to the last but one"


def preset_of(model: PreTrainedModel) -> Preset | None:
    return next((preset for preset in PRESETS if preset.fits(model)), None)


def default_blocks(count: int) -> range:
    """Blocks the rule edits in a decoder of `count` blocks.

    From the middle of the network up to the last block but one: facts are recalled from
    the middle on, and the last block has no later one to read what it wrote.
    """
    last = max(count - 2, 0)
    first = min(round(0.5 * count), last)
    return range(first, last + 1)


def published_modules(model: PreTrainedModel) -> list[str]:
    """The paper's choice for the paper's models, else the outputs of `default_blocks`.

    Raises:
        UnsupportedModelError: there is nothing to edit.
    """
    preset = preset_of(model)
    if preset is None:
        return output_projections(model, default_blocks)
    found = projections(model)
    return [p.name for p in found if any(span.holds(p) for span in preset.spans)]


def output_projections(model: PreTrainedModel, blocks: Callable[[int], Sequence[int]]) -> list[str]:
    """The MLP output projections of some blocks, in model order.

    Args:
        model: Any decoder of the installed transformers; may be without weights.
        blocks: Which of how many.

    Raises:
        UnsupportedModelError: there are none.
    """
    outputs = [p for p in projections(model) if p.role == "output"]
    chosen = blocks(max(p.block for p in outputs) + 1)
    return [p.name for p in outputs if p.block in chosen]


def main_outputs(model: PreTrainedModel, blocks: Callable[[int], Sequence[int]]) -> list[str]:
    """Of each of some blocks, the one map that leads out of its MLP, in model order.

    Some blocks have none (layers of a state space), and some have further maps of the hidden
    size: the widest input is the MLP's. Where none of the blocks has one, the nearest that does.

    Args:
        model: Any decoder; may be without weights.
        blocks: Which of how many.

    Raises:
        UnsupportedModelError: there are none at all.
    """
    widest: dict[int, tuple[int, str]] = {}
    for projection in projections(model):
        if projection.role == "output":
            d, _ = features(model.get_submodule(projection.name))
            found = (d, projection.name)
            widest[projection.block] = max(
                widest.get(projection.block, found), found, key=lambda pair: pair[0]
            )
    wanted = blocks(model.config.get_text_config(decoder=True).num_hidden_layers)
    chosen = [block for block in wanted if block in widest]
    if not chosen and widest:
        chosen = [min(widest, key=lambda block: (abs(block - wanted[-1]), block))]
    if not chosen:
        raise UnsupportedModelError(f"{type(model).__name__} has no MLP output projections")
    return [widest[block][1] for block in sorted(chosen)]


def choose_modules(
    model: PreTrainedModel,
    modules: str | Sequence[str] = "auto",
    auto: Callable[[PreTrainedModel], list[str]] = published_modules,
) -> list[str]:
    """Names of the modules to edit, in model order.

    Args:
        model: Any decoder of the installed transformers; may be without weights.
        modules: `auto`, or names, which are checked and taken as they are.
        auto: What `auto` stands for; every method has its own, `Method.modules`.

    Raises:
        InputError: a listed module does not exist, or is listed twice.
        UnsupportedModelError: `auto` found nothing to edit.
    """
    if isinstance(modules, str) and modules != "auto":
        modules = [name.strip() for name in modules.split(",")]
    if modules == "auto":
        return auto(model)
    known = {name for name, _ in model.named_modules()}
    for name in modules:
        if name not in known:
            near = sorted(k for k in known if k.endswith("." + name.rpartition(".")[2]))[:1]
            hint = f" (there is {near[0]})" if near else ""
            raise InputError(f"the model has no module {name!r}{hint}")
    if not modules:
        raise InputError("no modules to edit")
    if len(set(modules)) < len(modules):
        raise InputError("a module is listed twice")
    return [name for name, _ in model.named_modules() if name in set(modules)]
