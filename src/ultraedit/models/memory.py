"""What an edit will need beside the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ultraedit.encoding.plan import Widths, plan_apart
from ultraedit.forward.prefix import LOOKAHEAD_EDITS, PREFIX_BYTES
from ultraedit.models.discover import frozen_below
from ultraedit.models.presets import inner_size

# An edit of zsRE or WikiBigEdit, end-of-sequence counted, in the tokens of a 7B model.
ANSWER_TOKENS_PER_EDIT = 5
TOKENS_PER_EDIT = 22
# Batches of more edits than these are no larger.
MOST_NOMINAL = 2000
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Cost:
    """What a method needs beside the model and the shifts of a turn, in bytes.

    Attributes:
        memory: Held at once.
        constants: Of what never changes; a folder holds it once.
        state: Of the rest of the state.
        record: Of what the journal keeps of a turn.
        tokens: Answer tokens, not bytes, that are captured beside those of a turn.
    """

    memory: int = 0
    constants: int = 0
    state: int = 0
    record: int = 0
    tokens: int = 0


NO_COST = Cost()


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(d, e) of a linear map."""
    rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def shapes_of(model: nn.Module, names: Sequence[str]) -> list[tuple[int, int]]:
    """(d, e) of every named module."""
    return [shape_of(model.get_submodule(name)) for name in names]


@dataclass(frozen=True)
class _Sizes:
    """What decides on the memory of a pass.

    Attributes:
        width: Of the hidden states.
        inner: Of the MLP.
        keys: Of one token's keys in one block.
        vocabulary: Rows of the head.
        itemsize: Bytes of an activation.
        top: Blocks from the first edited one on.
        frozen: Blocks before it.
    """

    width: int
    inner: int
    keys: int
    vocabulary: int
    itemsize: int
    top: int
    frozen: int

    def plain(self, tokens: int) -> int:
        """A pass without a graph: at its widest, inside an MLP."""
        return tokens * (self.itemsize * (2 * self.inner + 4 * self.width) + 4 * self.width)

    def graph(self, tokens: int, answers: int, asked: int) -> int:
        """Keys and values of all tokens in the edited blocks, and a graph over the answers.

        The expanded keys and values are part of the graph. The head is given the answers that
        are no padding, `asked`; a logit is held as it came out and as a gradient.
        """
        keys = self.itemsize * tokens * 2 * (self.keys + self.width)
        saved = answers * (self.itemsize * (5 * self.inner + 8 * self.width) + 12 * self.width)
        return self.top * (keys + saved) + 2 * self.itemsize * asked * self.vocabulary


def edit_memory(
    model: PreTrainedModel,
    names: Sequence[str],
    turn_size: int,
    device: str = "cuda",
    batch_tokens: int = 2048,
    cost: Cost = NO_COST,
    stored: torch.dtype | None = None,
) -> dict[str, int]:
    """Bytes by purpose, for turns of `turn_size` edits of `TOKENS_PER_EDIT` tokens.

    Args:
        model: May be without weights.
        names: The edited modules.
        turn_size: Edits of a turn.
        device: `cpu` where the originals, which are kept in CPU memory, count too.
        batch_tokens: Padded tokens of one pass.
        cost: Of the method.
        stored: The dtype that edited weights are stored in; the model's own by default.

    Returns:
        `peak` is the most that is held at once beside the weights. Of what it is made of:
        masters, backup (what brings a refused turn back) and hidden states stay from turn to
        turn; of frozen pass, graph and solve (both with rows) the largest counts. A CPU's
        allocator does not give back what one of them took, so there they add up; and there
        come the originals, and in half precision the largest weight, which products reorder.
    """
    shapes = shapes_of(model, names)
    served = [model.get_submodule(name).weight for name in names]
    sizes = sizes_of(model, names)
    n = turn_size * ANSWER_TOKENS_PER_EDIT + cost.tokens
    ahead = max(turn_size, LOOKAHEAD_EDITS) * TOKENS_PER_EDIT
    rows = 4 * n * sum(d + e for d, e in shapes)
    parts = {
        "masters": 4 * sum(w.numel() for w in served if (stored or w.dtype) != torch.float32),  # type: ignore[misc,operator,union-attr]
        "backup": 4 * sum(d * e for d, e in shapes),
        "originals (cpu)": sum(w.numel() * (stored or w.dtype).itemsize for w in served),  # type: ignore[misc,operator,union-attr]
        "hidden states": min(PREFIX_BYTES, ahead * sizes.width * sizes.itemsize)
        if sizes.frozen
        else 0,
        "frozen pass": sizes.plain(min(batch_tokens, ahead)) if sizes.frozen else 0,
        "graph": max(_batch(sizes, batch) for batch in _nominal_batches(turn_size, batch_tokens)),
        "rows": rows,
        "method": cost.memory,
        "solve": max(
            max(12 * n * (d + e), 4 * n * (3 * d + 6 * e) + 16 * min(n, d) ** 2) for d, e in shapes
        )
        + 4 * n * sum(e for _, e in shapes),
    }
    standing = parts["masters"] + parts["backup"] + parts["hidden states"] + cost.memory
    weights = [p.numel() * p.element_size() for p in model.parameters()]
    phases = (parts["frozen pass"], rows + parts["graph"], rows + parts["solve"])
    if device == "cpu":
        reordered = max(weights) if sizes.itemsize < 4 else 0
        peak = standing + parts["originals (cpu)"] + reordered + sum(phases) - rows
    else:
        peak = standing + max(phases)
    return {"weights": sum(weights), **parts, "peak": peak}


def _batch(sizes: _Sizes, parts: list[list[Widths]]) -> int:
    """The widest pass of a batch, every key and value it keeps, and the graph of its answers."""
    widths = [width for part in parts for width in part]
    before, after = (max(width[side] for width in widths) for side in (0, 1))
    passes = [len(part) * max(prompt for prompt, _ in part) for part in parts]
    answers = len(widths) * after
    kept = sizes.graph(len(widths) * (before + after), answers, sum(own for _, own in widths))
    return sizes.plain(max(*passes, answers)) + kept


def _nominal_batches(turn_size: int, batch_tokens: int) -> list[list[list[Widths]]]:
    """(prompt, answer) tokens of a turn's edits, batch by batch, at lengths as they come."""
    longest = 2 * (TOKENS_PER_EDIT - ANSWER_TOKENS_PER_EDIT)
    widths = [
        (place * 11 % longest + 1, place * 4 % (2 * ANSWER_TOKENS_PER_EDIT - 1) + 1)
        for place in range(1, min(turn_size, MOST_NOMINAL) + 1)
    ]
    batches = plan_apart(widths, batch_tokens)
    return [[[widths[place] for place in part] for part in parts] for parts in batches]


def sizes_of(model: PreTrainedModel, names: Sequence[str]) -> _Sizes:
    """The sizes that decide on the memory of a pass over `model`."""
    config: Any = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    served = [model.get_submodule(name).weight for name in names]
    frozen = len(frozen_below(model, names))
    return _Sizes(
        width=config.hidden_size,
        inner=inner_size(config),
        keys=head * (getattr(config, "num_key_value_heads", None) or heads),
        vocabulary=config.vocab_size,
        itemsize=max((w.element_size() for w in served), default=4),  # type: ignore[misc,operator,union-attr]
        top=config.num_hidden_layers - frozen,
        frozen=frozen,
    )


def disk_cost(
    model: nn.Module,
    names: Sequence[str],
    turn_size: int,
    cost: Cost,
    passes: int = 1,
    stored: torch.dtype | None = None,
) -> dict[str, int]:
    """Bytes that an edited model takes on disk beside its base, by purpose.

    Args:
        model: May be without weights.
        names: The edited modules.
        turn_size: Edits of a turn.
        cost: Of the method.
        passes: That it takes over a turn, at most.
        stored: See `edit_memory`.

    Returns:
        `every save` is what a save of one turn writes at most; of that, weights replace those
        of the version before and the turn's history stays. One save in fifty writes a snapshot
        as well.
    """
    shapes = shapes_of(model, names)
    served = [model.get_submodule(name).weight for name in names]
    own = sum(w.numel() * (stored or w.dtype).itemsize for w in served)  # type: ignore[misc,operator,union-attr]
    halves = sum(w.numel() for w in served if (stored or w.dtype) != torch.float32)  # type: ignore[misc,operator,union-attr]
    n = turn_size * ANSWER_TOKENS_PER_EDIT + cost.tokens
    turn = cost.record + passes * sum(4 * n * (d + e) + 8 * n for d, e in shapes)
    return {
        "once: originals": own,
        "once: constants of the method": cost.constants,
        "every save": own + 4 * halves + turn,
        "of that, history of a turn": turn,
        "every fifty turns: snapshot": 4 * sum(d * e for d, e in shapes) + cost.state,
    }


def readable(size: int) -> str:
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
