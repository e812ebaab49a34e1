"""Random models of published shapes, texts for them, and what a machine is."""

from __future__ import annotations

import copy
import gc
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from published import synchronise
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)  # fmt: skip

from ultraedit import Edit

FULL = 32
SPECIAL = ("<unk>", "<s>", "</s>")
# Words before and in the answer; with beginning-of-sequence a text has about 22 tokens.
PROMPT_WORDS, TARGET_WORDS = (7, 27), (1, 8)

Place = tuple[int, str]


def last_downs(blocks: int) -> list[Place]:
    """The down projections of the last block but two and the last but one."""
    return [(blocks - 3, "down_proj"), (blocks - 2, "down_proj")]


def gates_and_ups(blocks: int) -> list[Place]:
    """Gates of blocks 11-15 and ups of 18-24 of 32, at the same relative depths."""
    places = [(n, "gate_proj") for n in range(11, 16)] + [(n, "up_proj") for n in range(18, 25)]
    return list(dict.fromkeys((n * blocks // FULL, kind) for n, kind in places))


@dataclass(frozen=True)
class Shape:
    """A published model's sizes and the modules the paper edits in it.

    Attributes:
        config: Makes the configuration.
        model: Its class.
        options: Of the configuration, but for the number of blocks.
        places: From a number of blocks to the edited (block, projection) pairs.
    """

    config: Callable[..., Any]
    model: type[PreTrainedModel]
    options: dict[str, Any]
    places: Callable[[int], list[Place]]

    def modules(self, blocks: int) -> list[str]:
        return [f"model.layers.{n}.mlp.{kind}" for n, kind in self.places(blocks)]

    def first(self, blocks: int) -> int:
        """The first edited block."""
        return min(n for n, _ in self.places(blocks))


SEVEN_B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
SHAPES = {
    "mistral": Shape(
        MistralConfig, MistralForCausalLM,
        SEVEN_B | {"vocab_size": 32768, "rope_theta": 1e6, "sliding_window": None}, last_downs,
    ),
    "llama": Shape(
        LlamaConfig, LlamaForCausalLM,
        SEVEN_B | {"vocab_size": 128256, "rope_theta": 5e5}, gates_and_ups,
    ),
    "tiny-mistral": Shape(
        MistralConfig, MistralForCausalLM,
        TINY | {"vocab_size": 512, "sliding_window": None}, last_downs,
    ),
    "tiny-llama": Shape(
        LlamaConfig, LlamaForCausalLM, TINY | {"vocab_size": 2048}, gates_and_ups
    ),
}  # fmt: skip


def named(names: str) -> list[str]:
    """Shapes of a comma-separated list, in which `tiny` stands for both tiny ones."""
    found: list[str] = []
    for name in names.split(","):
        found += [one for one in SHAPES if one.startswith("tiny-")] if name == "tiny" else [name]
    unknown = [name for name in found if name not in SHAPES]
    if unknown:
        raise SystemExit(f"no shape {', '.join(unknown)}; there is {', '.join(SHAPES)}, tiny")
    return found


def random_model(
    shape: Shape, blocks: int, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> PreTrainedModel:
    """Built without values and filled in `dtype` on `device`: no other copy ever exists."""
    config = shape.config(
        **shape.options, num_hidden_layers=blocks, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = shape.model(config).to(dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1)
            else:
                parameter.normal_(0, 0.02, generator=generator)
    # Its buffers are computed, in float32, and no checkpoint holds them.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    left = [name for name, _ in model.named_buffers() if "rotary_emb" not in name]
    assert not left, left
    return model.eval()


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Word `w7` is token 7; beginning-of-sequence comes first."""
    words = {word: number for number, word in enumerate(SPECIAL)}
    words |= {f"w{number}": number for number in range(len(SPECIAL), size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def random_edits(count: int, size: int, seed: int) -> list[Edit]:
    """Edits of random words of a vocabulary of `size`; a single one is of middling length."""
    chance = random.Random(seed)

    def words(fewest: int, most: int) -> str:
        length = (fewest + most) // 2 if count == 1 else chance.randint(fewest, most)
        return " ".join(f"w{chance.randrange(len(SPECIAL), size)}" for _ in range(length))

    return [Edit(words(*PROMPT_WORDS), words(*TARGET_WORDS)) for _ in range(count)]


def more_of(block: nn.Module, number: int, count: int) -> list[nn.Module]:
    """The block several times over, sharing its weights, as the blocks from `number` on."""
    copies = []
    for place in range(number, number + count):
        one, attention = copy.copy(block), copy.copy(block.self_attn)
        # Keys are kept by the number that attention has.
        attention.layer_idx = place
        one._modules = {**block._modules, "self_attn": attention}
        copies.append(one)
    return copies


@contextmanager
def with_blocks(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """The model with other blocks inside; one block may stand in several places."""
    own, count = model.model.layers, model.config.num_hidden_layers
    try:
        model.model.layers = nn.ModuleList(blocks)
        model.config.num_hidden_layers = len(blocks)
        yield
    finally:
        model.model.layers, model.config.num_hidden_layers = own, count


def seconds(device: torch.device, function: Callable[[], Any]) -> float:
    synchronise(device)
    began = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - began


def used_bytes(device: torch.device) -> int | None:
    """Memory held now: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def watched(device: torch.device, function: Callable[[], Any]) -> tuple[float, int | None, Any]:
    """Seconds of `function`, the most memory it held beyond what was held before, its result.

    Off the GPU the memory is the process's, which the allocator may have kept from before.
    """
    gc.collect()
    before = used_bytes(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            # Linux starts counting this process's peak anew.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            before = None
    results: list[Any] = []
    taken = seconds(device, lambda: results.append(function()))
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")
    peak = None if before is None or most is None else most - before
    return taken, peak, results[0]


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) * 1024 if values else None
