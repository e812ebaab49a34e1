"""A random model and every side's way of editing it, for speed.py."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from published import Published
from shapes import (
    FULL,
    Shape,
    more_of,
    random_edits,
    random_model,
    seconds,
    used_bytes,
    watched,
    with_blocks,
    word_tokenizer,
)

from ultraedit import Editor
from ultraedit.encoding.batching import Batch, batches_of
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.forward import forward
from ultraedit.forward.passes import Passes
from ultraedit.forward.score import score

LR = 1e-6
TURN = 100
# Blocks put on top for the cost of one with its backward pass.
MORE = 3
Times = dict[str, list[float]]


class Rig:
    """One model, and every side's way of editing it."""

    def __init__(
        self, shape: Shape, blocks: int, dtype: torch.dtype, device: torch.device, folder: Path
    ) -> None:
        self.blocks, self.device = blocks, device
        self.vocabulary = shape.options["vocab_size"]
        self.model = random_model(shape, blocks, dtype, device)
        modules = shape.modules(blocks)
        tokenizer = word_tokenizer(self.vocabulary)
        options = {
            "method": "ultraedit", "modules": modules, "lr": LR, "history": "none",
            "append_eos": False,
        }  # fmt: skip
        before = used_bytes(device)
        self.editors = {"ours": Editor(self.model, tokenizer, **options)}
        held = used_bytes(device)
        self.standing = None if before is None or held is None else held - before
        if "check_learned" in inspect.signature(Editor.__init__).parameters:
            self.editors["unchecked"] = Editor(
                self.model, tokenizer, check_learned=False, **options
            )
        self.workbench = self.editors["ours"].workbench
        self.published = Published(self.model, tokenizer.pad_token_id, modules, LR, folder)
        # What the full depth has more of: blocks below the first edited one, others, modules.
        self.frozen = shape.first(FULL) - shape.first(blocks)
        self.top = FULL - blocks - self.frozen
        self.modules = len(modules)
        self.more_modules = len(shape.modules(FULL)) - len(modules)
        self.peaks: dict[int, dict[str, list[int | None]]] = {
            count: defaultdict(list) for count in (TURN, 1)
        }

    def warm_up(self) -> None:
        for count in (TURN, 1):
            edits = random_edits(count, self.vocabulary, seed=-count)
            for editor in self.editors.values():
                editor.edit(edits)
            texts = self.encoded(edits)
            if self.device.type == "cuda":
                self.published.edit(texts)
            else:
                # Its solve takes long, and has nothing to warm up here.
                self.published_passes(texts[:10])
        self.restore()

    def encoded(self, edits: Sequence[Any]) -> list[Encoded]:
        return [self.workbench.encoder.encode(edit.prompt, edit.answers[0]) for edit in edits]

    def restore(self) -> None:
        """The weights as they were made, for every side."""
        for editor in self.editors.values():
            for master in editor.workbench.masters.values():
                master.set(master.original.float())

    def published_passes(self, texts: Sequence[Encoded], gradients: bool = True) -> None:
        for batch in self.published.batches(texts):
            if gradients:
                self.published.rows(batch)
            else:
                with torch.no_grad():
                    self.published.logits(batch)

    def round(self, count: int, seed: int, times: Times, with_published: bool) -> None:
        """One measurement of everything over fresh texts."""
        edits = random_edits(count, self.vocabulary, seed)
        texts = self.encoded(edits)
        sides = [*self.editors, *(["published"] if with_published else [])]
        for side in sides if seed % 2 else reversed(sides):
            if side == "published":
                taken, peak, parts = watched(self.device, lambda: self.published.edit(texts))
                for part, value in parts.items():
                    times[part].append(value)
            else:
                editor = self.editors[side]
                taken, peak, _ = watched(self.device, lambda e=editor: e.edit(edits))
            times[side].append(taken)
            self.peaks[count][side].append(peak)
            self.restore()
        self._passes(texts, times)
        if self.blocks < FULL:
            self._depths(texts, times, with_published)

    def _padded(self, texts: Sequence[Encoded]) -> Iterator[Batch]:
        pad = self.published.pad_id
        return batches_of(texts, self.workbench.batch_tokens, self.device, pad, "right")

    def plain(self, texts: Sequence[Encoded]) -> None:
        """One pass of the whole model over the texts, padded on one side as little as ours."""
        score(self.model, self._padded(texts))

    def _passes(self, texts: Sequence[Encoded], times: Times) -> None:
        """The floor, and our passes with an empty buffer and with a full one."""
        workbench = self.workbench

        def further() -> None:
            workbench.capture(texts)
            workbench.score(texts)

        @torch.no_grad()
        def everywhere() -> None:
            for batch in self._padded(texts):
                forward(self.model, batch)

        times["floor"].append(seconds(self.device, lambda: self.plain(texts)))
        times["everywhere"].append(seconds(self.device, everywhere))
        workbench.forget()
        times["capture"].append(seconds(self.device, lambda: workbench.capture(texts)))
        times["score"].append(seconds(self.device, lambda: workbench.score(texts)))
        times["further"].append(seconds(self.device, further))
        workbench.forget()

    def _depths(self, texts: Sequence[Encoded], times: Times, with_published: bool) -> None:
        """Passes at other depths, for what one block costs."""

        def passes(depth: str, gradients: bool) -> None:
            ours = self.workbench.capture if gradients else self.plain
            name = "capture" if gradients else "floor"
            if gradients or depth != "here":
                times[f"{name} {depth}"].append(seconds(self.device, lambda: ours(texts)))
            if with_published:
                taken = seconds(self.device, lambda: self.published_passes(texts, gradients))
                times[f"published {name} {depth}"].append(taken)

        layers = list(self.model.model.layers)
        passes("here", gradients=False)
        with with_blocks(self.model, layers[: self.shallow]):
            passes("shallow", gradients=False)
        if self.top:
            with self._whole():
                passes("here", gradients=True)
                with with_blocks(self.model, layers + more_of(layers[-1], len(layers), MORE)):
                    passes("deep", gradients=True)
        if with_published and self.more_modules:
            times["gradient"].append(self._gradient(texts))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Our passes go through every block inside."""
        passes, self.workbench.passes = self.workbench.passes, Passes(self.model)
        self.workbench.passes.checked = True
        try:
            yield
        finally:
            self.workbench.passes = passes

    @property
    def shallow(self) -> int:
        return max(1, self.blocks // 3)

    def _gradient(self, texts: Sequence[Encoded]) -> float:
        """Seconds of one module's weight gradients, over the published micro-batches."""
        weight = next(iter(self.published.modules.values())).weight.detach()
        taken = 0.0
        for batch in self.published.batches(texts):
            tokens = batch["input_ids"].numel()
            gradients = weight.new_ones(tokens, weight.shape[0])
            inputs = weight.new_ones(tokens, weight.shape[1])
            taken += seconds(self.device, lambda g=gradients, h=inputs: g.T @ h)
        return taken
