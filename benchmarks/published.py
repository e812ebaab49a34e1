"""A turn of UltraEdit the published way (arXiv:2505.14679), and what its parts cost.

    python benchmarks/published.py

Written from the paper and from what its program does, with the program's costs kept: small
micro-batches in the order given, logits at every position, gradients of the edited weights that
nobody reads, features written to files and read back, a system as wide as the module's input,
and every past batch held. Two things are kinder than the program: the running variance is exact,
and a micro-batch's weight gradients are let go of at once. Run as a script it edits the embedded
model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultraedit.encoding.tokenise import Encoded

MICRO_BATCH = 10
EPSILON = 1.19e-7
PARTS = ("forward and backward", "features", "solve", "apply")


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Normaliser:
    """Running mean and variance of rows, by Welford's recurrence over blocks of rows."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(width, device=device)
        self.squares = torch.zeros(width, device=device)

    def update(self, rows: Tensor) -> None:
        total = self.count + len(rows)
        mean = rows.mean(0)
        away = mean - self.mean
        self.squares += (rows - mean).square().sum(0)
        self.squares += away.square() * (self.count * len(rows) / total)
        self.mean += away * (len(rows) / total)
        self.count = total

    def normalise(self, rows: Tensor) -> Tensor:
        std = (self.squares / max(self.count - 1, 1)).sqrt()
        return (rows - self.mean) / (std + EPSILON)


class Published:
    """Edits a causal language model in place.

    Args:
        model: A causal language model of transformers; only the edited weights ask for
            gradients afterwards.
        pad_id: Token to pad with.
        module_names: `nn.Linear` modules to edit.
        lr: eta.
        folder: Where features are written; must exist.
        micro_batch: Texts of a forward and backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        pad_id: int,
        module_names: Sequence[str],
        lr: float,
        folder: Path,
        micro_batch: int = MICRO_BATCH,
    ) -> None:
        self.model = model
        self.pad_id = pad_id
        self.modules: dict[str, nn.Linear] = {n: model.get_submodule(n) for n in module_names}
        self.lr = lr
        self.folder = folder
        self.micro_batch = micro_batch
        self.device = model.get_input_embeddings().weight.device
        self.normalisers: dict[tuple[int, ...], Normaliser] = {}
        self.past: list[dict[str, Tensor]] = []
        model.requires_grad_(False)
        for module in self.modules.values():
            module.weight.requires_grad_(True)

    def edit(self, texts: Sequence[Encoded]) -> dict[str, float]:
        """One turn. Returns the seconds of each of `PARTS`."""
        seconds = dict.fromkeys(PARTS, 0.0)
        count = 0
        for count, batch in enumerate(self.batches(texts), 1):
            with self._timed(seconds, "forward and backward"):
                self.past.append(batch)
                rows = self.rows(batch)
            with self._timed(seconds, "features"):
                for name, (inputs, gradients) in rows.items():
                    self._normaliser(name).update(torch.cat([inputs, gradients], 1))
                    torch.save((inputs, gradients), self._file(name, count))
        shifts = {}
        for name in self.modules:
            with self._timed(seconds, "features"):
                parts = [
                    torch.load(self._file(name, number), map_location=self.device)
                    for number in range(1, count + 1)
                ]
            with self._timed(seconds, "solve"):
                shifts[name] = self._shift(name, parts)
        with self._timed(seconds, "apply"), torch.no_grad():
            for name, shift in shifts.items():
                weight = self.modules[name].weight
                weight += shift.T.to(weight.dtype)
        return seconds

    def batches(self, texts: Sequence[Encoded]) -> Iterator[dict[str, Tensor]]:
        """Micro-batches in the order given, padded on the right; labels are -100 elsewhere."""
        for start in range(0, len(texts), self.micro_batch):
            group = texts[start : start + self.micro_batch]
            width = max(len(text.ids) for text in group) - 1
            batch = {
                "input_ids": torch.full((len(group), width), self.pad_id),
                "attention_mask": torch.zeros(len(group), width, dtype=torch.long),
                "labels": torch.full((len(group), width), -100),
            }
            for row, text in enumerate(group):
                length = len(text.ids) - 1
                batch["input_ids"][row, :length] = torch.tensor(text.ids[:-1])
                batch["attention_mask"][row, :length] = 1
                batch["labels"][row, len(text.prompt) - 1 : length] = torch.tensor(text.target)
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        return logits

    def rows(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Per module, float32 inputs and output gradients at the batch's answer positions."""
        answers = batch["labels"] != -100
        inputs: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}

        def watch(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                inputs[name] = args[0].detach()[answers].float()
                output.register_hook(
                    lambda gradient: gradients.__setitem__(name, gradient[answers].float())
                )

            return hook

        handles = [m.register_forward_hook(watch(name)) for name, m in self.modules.items()]
        try:
            logits = self.logits(batch)
            F.cross_entropy(logits[answers].float(), batch["labels"][answers]).backward()
        finally:
            for handle in handles:
                handle.remove()
        for module in self.modules.values():
            module.weight.grad = None
        return {name: (inputs[name], gradients[name]) for name in self.modules}

    @torch.no_grad()
    def _shift(self, name: str, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        e, d = self.modules[name].weight.shape
        normaliser = self._normaliser(name)
        system = torch.zeros(d, d, device=self.device)
        right = torch.zeros(d, e, device=self.device)
        for inputs, gradients in parts:
            normal = normaliser.normalise(torch.cat([inputs, gradients], 1))
            size = normal[:, :d].square().sum(1, keepdim=True)
            system.addmm_(inputs.T, inputs)
            right.addmm_(inputs.T, -self.lr * size * normal[:, d:])
        system.diagonal().add_(1)
        return torch.linalg.solve(system, right)

    def _normaliser(self, name: str) -> Normaliser:
        shape = tuple(self.modules[name].weight.shape)
        if shape not in self.normalisers:
            self.normalisers[shape] = Normaliser(sum(shape), self.device)
        return self.normalisers[shape]

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}.pt"

    @contextmanager
    def _timed(self, seconds: dict[str, float], part: str) -> Iterator[None]:
        synchronise(self.device)
        began = time.perf_counter()
        yield
        synchronise(self.device)
        seconds[part] += time.perf_counter() - began


def main() -> None:
    from ultraedit import Editor
    from ultraedit.data import read_cases
    from ultraedit.demo import CASES_FILE

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.04)
    arguments = parser.parse_args()
    editor = Editor.from_pretrained("demo", method="ultraedit", lr=arguments.lr, append_eos=False)
    cases = read_cases(str(CASES_FILE), limit=100 * arguments.turns)
    encode = editor.workbench.encoder.encode
    texts = [encode(case.edit.prompt, case.edit.answers[0]) for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        published = Published(editor.model, 0, editor.modules, arguments.lr, Path(folder))
        for start in range(0, len(texts), 100):
            turn = texts[start : start + 100]
            parts = "  ".join(f"{part} {s:.3f}" for part, s in published.edit(turn).items())
            scored = editor.workbench.score(turn)
            learned = sum(bool(one.correct.all()) for one in scored)
            print(f"turn {start // 100 + 1}: {parts}  (seconds); {learned} of {len(turn)} learned")


if __name__ == "__main__":
    main()
