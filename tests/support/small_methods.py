"""Small methods of the kinds that the package itself does not have, as other packages add them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch

from ultraedit.errors import InputError
from ultraedit.linalg.shift import Dense, LowRank
from ultraedit.methods.base import Method, MethodInfo
from ultraedit.methods.routing import UNROUTED, Router
from ultraedit.models.memory import Cost


@dataclass(frozen=True)
class Step:
    step: float = 0.5


class ScaledGradient(Method):
    """Trained first, as MEND is (arXiv:2110.11309): how far to go along the gradient."""

    info = MethodInfo(
        "scaled_gradient", "a gradient step of a trained length", "none", needs_training=True,
        exports=("checkpoint", "delta", "lora"),
    )  # fmt: skip
    Config = Step

    def __init__(self, config=None):
        super().__init__(config)
        self.scale = None

    def train(self, workbench, cases):
        if not cases:
            raise InputError("training needs at least one record")
        edits = [case.edit for case in cases]
        texts = [workbench.encoder.encode(e.prompt, e.answers[0]) for e in edits]
        lengths = [self.config.step * 2**n for n in range(-3, 6)]
        found = []
        with workbench.progress("training", len(lengths)) as advance:
            for length in lengths:
                with workbench.trial(self.shifts(workbench, texts, length)):
                    found.append(sum(float(s.losses.sum()) for s in workbench.score(texts)))
                advance(1)
        self.scale = torch.tensor(lengths[found.index(min(found))])

    @staticmethod
    def shifts(workbench, texts, length):
        rows = workbench.capture(texts)
        return {
            name: LowRank(r.inputs, -length * r.gradients, r.edit_index) for name, r in rows.items()
        }

    def passes(self, workbench, edits, texts):
        yield self.shifts(workbench, texts, float(self.scale))

    def cost(self, shapes, edits):
        return Cost(constants=4)

    def is_constant(self, key):
        return True

    def state_dict(self):
        return {} if self.scale is None else {"scale": self.scale}

    def load_state_dict(self, state):
        self.scale = state.get("scale")


class Codebook(Method):
    """Routed and forgotten edit by edit, as in GRACE (arXiv:2211.11031).

    An entry has the last block's input at the end of a prompt as its key, and a vector that is
    added to the block's output for prompts whose key is near.
    """

    info = MethodInfo(
        "codebook", "entries that answer what is near their keys", "none", changes_weights=False,
        exports=(),
    )  # fmt: skip
    Config = Step
    radius = 0.05

    def __init__(self, config=None):
        super().__init__(config)
        self.router = None
        self.keys, self.values = torch.zeros(0, 0), torch.zeros(0, 0)
        self.names = torch.zeros(0, dtype=torch.int64)

    @classmethod
    def modules(cls, model):
        return super().modules(model)[-1:]

    @property
    def most_passes(self):
        return 0

    def attach(self, workbench):
        (target,) = workbench.targets.values()
        self.router = Router(workbench.model, target.module)

    def detach(self):
        self.router.remove()

    def passes(self, workbench, edits, texts):
        with self.bypassed():
            rows = workbench.capture_spots(texts, [[len(text.prompt) - 1] for text in texts])
        ((keys, gradients),) = zip(rows.inputs.values(), rows.gradients.values(), strict=True)
        names = torch.tensor([name_of(edit) for edit in edits])
        values = -self.config.step * gradients
        if len(self.keys):
            keys, values = torch.cat([self.keys, keys]), torch.cat([self.values, values])
            names = torch.cat([self.names, names])
        self.load_state_dict({"keys": keys, "values": values, "names": names})
        yield {}

    def choose(self, inputs, asked):
        columns = torch.arange(asked.shape[1], device=asked.device)
        last = (asked * columns).amax(1)
        own = inputs[torch.arange(len(inputs)), last].float()
        distance, nearest = torch.cdist(own, self.keys).min(1)
        near = distance <= self.radius * own.norm(dim=1)
        return torch.where(near, nearest, UNROUTED)

    def answer(self, entry, inputs, outputs):
        return outputs + self.values[entry].to(outputs.dtype)

    def query(self, query):
        return self.router.query(query)

    def bypassed(self):
        return self.router.bypassed()

    def forget(self, edit):
        kept = self.names != name_of(edit)
        self.load_state_dict(
            {"keys": self.keys[kept], "values": self.values[kept], "names": self.names[kept]}
        )

    def cost(self, shapes, edits):
        ((d, e),) = shapes
        return Cost(record=(4 * d + 4 * e + 8) * edits * 2)

    def state_dict(self):
        return {"keys": self.keys, "values": self.values, "names": self.names}

    def load_state_dict(self, state):
        self.keys, self.values, self.names = state["keys"], state["values"], state["names"]
        if self.router is not None:
            self.router.serve(self if len(self.keys) else None)


def name_of(edit):
    """A number for an edit, the same in every process."""
    return zlib.crc32(f"{edit.prompt}\n{edit.answers[0]}".encode())


class Adapter(Method):
    """Gradient steps on two factors of every module, as in LoRA (arXiv:2106.09685).

    What they multiply to is dense, and no part of it is one edit's.
    """

    info = MethodInfo(
        "adapter", "trains two factors a module and multiplies them", "none",
        tells_edits_apart=False, exports=("checkpoint", "delta"),
    )  # fmt: skip
    Config = Step
    rank, steps = 2, 3

    def passes(self, workbench, edits, texts):
        generator = torch.Generator().manual_seed(len(texts))
        left = {
            name: torch.randn(target.d, self.rank, generator=generator) / target.d**0.5
            for name, target in workbench.targets.items()
        }
        right = {name: torch.zeros(self.rank, t.e) for name, t in workbench.targets.items()}
        for _ in range(self.steps):
            with workbench.trial({name: Dense(left[name] @ right[name]) for name in left}):
                rows = workbench.capture(texts)
            for name, row in rows.items():
                # The gradient of the loss with respect to left @ right is inputs^T gradients.
                by_left = row.inputs.T @ (row.gradients @ right[name].T)
                by_right = (row.inputs @ left[name]).T @ row.gradients
                left[name] = left[name] - self.config.step * by_left
                right[name] = right[name] - self.config.step * by_right
        yield {name: Dense(left[name] @ right[name]) for name in left}


SMALL_METHODS = {kind.info.name: kind for kind in (ScaledGradient, Codebook, Adapter)}
