"""Methods of other kinds than the published one fit the protocol without touching the core."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ultraedit import Edit, Editor, InputError, TurnRefusedError
from ultraedit.linalg.shift import Dense
from ultraedit.methods.base import Method, MethodInfo
from ultraedit.methods.registry import available, method_class

EDIT = Edit("who plays jazz", "paris")


@dataclass(frozen=True)
class NoSettings:
    pass


class Descent(Method):
    """Dense shifts over several passes, each seeing the weights of the one before."""

    info = MethodInfo("descent", "gradient steps", "none")
    Config = NoSettings
    steps = 4

    def passes(self, workbench, edits, texts):
        self.losses = []
        for _ in range(self.steps):
            self.losses.append(sum(float(s.losses.sum()) for s in workbench.score(texts)))
            rows = workbench.capture(texts)
            yield {n: Dense(-0.5 * r.inputs.T @ r.gradients) for n, r in rows.items()}


class Trained(Method):
    """Carries parameters of its own in its state."""

    info = MethodInfo("trained", "a scale that was trained", "none", needs_training=True)
    Config = NoSettings

    def __init__(self, config=None):
        super().__init__(config)
        self.scale = torch.tensor(1.0)

    def train(self, workbench, cases):
        self.scale = torch.tensor(float(len(cases)))

    def passes(self, workbench, edits, texts):
        rows = workbench.capture(texts)
        yield {n: Dense(-self.scale * r.inputs.T @ r.gradients) for n, r in rows.items()}

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, state):
        self.scale = state["scale"]


class Memory(Method):
    """Wraps a block: answers come from a side memory for prompts it has seen."""

    info = MethodInfo("memory", "a side memory", "none", changes_weights=False, exports=())
    Config = NoSettings

    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.query, self.keys, self.enabled = inner, None, [], True

        def forward(self, hidden):
            out = self.inner(hidden)
            if self.query is not None and self.enabled:
                for row, end in enumerate(self.query.prompt_end.tolist()):
                    if hidden.shape[1] > end and any(
                        torch.allclose(hidden[row, end], key, atol=1e-4) for key in self.keys
                    ):
                        out = out.clone()
                        out[row, end:] += 50.0
            return out

    def attach(self, workbench):
        self.block = workbench.model.model.layers[-1]
        self.block.mlp = self.wrapper = self.Wrapper(self.block.mlp)

    def detach(self):
        self.block.mlp = self.wrapper.inner

    def passes(self, workbench, edits, texts):
        seen = {}
        handle = self.wrapper.register_forward_pre_hook(lambda m, args: seen.update(h=args[0]))
        for batch in workbench.batches(texts):
            with torch.no_grad():
                workbench.model(batch.input_ids, attention_mask=batch.attention_mask)
            ends = batch.prompt_end
            self.wrapper.keys += list(seen["h"][torch.arange(len(ends)), ends])
        handle.remove()
        yield {}

    @contextmanager
    def query(self, query):
        self.wrapper.query = query
        try:
            yield
        finally:
            self.wrapper.query = None

    @contextmanager
    def bypassed(self):
        self.wrapper.enabled = False
        try:
            yield
        finally:
            self.wrapper.enabled = True


class Broken(Method):
    """A finite first pass, a second one that is not."""

    info = MethodInfo("broken", "not finite", "none")
    Config = NoSettings

    def __init__(self, config=None):
        super().__init__(config)
        self.seen = torch.zeros(())

    def passes(self, workbench, edits, texts):
        self.seen = self.seen + 1
        shape = {n: (t.d, t.e) for n, t in workbench.targets.items()}
        yield {n: Dense(torch.ones(s)) for n, s in shape.items()}
        yield {n: Dense(torch.full(s, float("inf"))) for n, s in shape.items()}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_several_passes_see_their_own_work(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method=Descent())
    turn = editor.edit([EDIT])
    assert turn.passes == 4
    assert editor.method.losses[-1] < editor.method.losses[0]


def test_trained_state_shapes_the_shift(build, tokenizer):
    moved = []
    for scale in (1, 2):
        editor = Editor(build("llama"), tokenizer, method=Trained())
        editor.train([EDIT] * scale)
        name = editor.modules[0]
        before = editor.workbench.masters[name].copy()
        editor.edit([EDIT])
        moved.append(editor.workbench.masters[name].master - before)
    torch.testing.assert_close(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)


def test_a_wrapping_method_routes_by_the_query_and_can_be_bypassed(build, tokenizer):
    model = build("llama")
    weights = {name: p.clone() for name, p in model.named_parameters()}
    editor = Editor(model, tokenizer, method=Memory())
    editor.edit([EDIT])
    texts = [editor.workbench.encoder.encode(p, "paris") for p in (EDIT.prompt, "what is")]
    known, other = (s.losses for s in editor.workbench.score(texts))
    with editor.unedited():
        known_before, other_before = (s.losses for s in editor.workbench.score(texts))
    assert not torch.allclose(known, known_before)
    torch.testing.assert_close(other, other_before)
    editor.method.detach()
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())


def test_a_turn_that_is_not_finite_leaves_weights_and_state(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method=Broken())
    before = {n: m.copy() for n, m in editor.workbench.masters.items()}
    with pytest.raises(TurnRefusedError, match=r"mlp\.down_proj is not finite"):
        editor.edit([EDIT])
    assert all(torch.equal(before[n], m.master) for n, m in editor.workbench.masters.items())
    assert float(editor.method.seen) == 0
    assert editor.turns == editor.edits == 0


def test_a_method_that_needs_subjects_says_whose_is_missing(build, tokenizer):
    class Subjects(Trained):
        info = MethodInfo("subjects", "", "none", needs_subject=True)

    editor = Editor(build("llama"), tokenizer, method=Subjects())
    with pytest.raises(InputError, match="edit b: it has no subject"):
        editor.edit([Edit("who", "paris", "who", "a"), Edit("who", "paris", None, "b")])
    with pytest.raises(InputError, match="edit c: its subject 'jazz' is not in its prompt 'who'"):
        editor.edit([Edit("who", "paris", "jazz", "c")])


def test_the_registry_finds_methods_by_their_module():
    assert "ultraedit" in available()
    for name, method in available().items():
        assert method.info.name == name
        assert method_class(name) is method
        assert not method().state_dict().get("lr"), "a new method knows no step yet"


def test_unknown_methods_and_settings_are_named():
    with pytest.raises(InputError, match=r"no method 'magic'.*ultraedit"):
        method_class("magic")
    with pytest.raises(InputError, match=r"no setting 'speed'.*lr, ridge"):
        method_class("ultraedit").with_settings({"speed": 3})


def test_logits_are_the_whole_passes_with_a_graph_through_prompts(build, architecture, tokenizer):
    editor = Editor(build(architecture), tokenizer, method="ultraedit")
    workbench = editor.workbench
    texts = [workbench.encoder.encode(p, "paris") for p in (EDIT.prompt, "what is")]
    scored = workbench.score(texts)
    target = next(iter(workbench.targets.values()))
    found = {}
    for batch in workbench.batches(texts):
        seen = []
        handle = target.module.register_forward_hook(
            lambda m, args, output, seen=seen: seen.append(output.requires_grad_())
        )
        with torch.enable_grad():
            logits = workbench.logits(batch)
        handle.remove()
        losses = nn.functional.cross_entropy(
            logits, batch.labels[batch.answer_mask], reduction="none"
        )
        (slope,) = torch.autograd.grad(losses.sum(), seen[0])
        slope = slope.reshape(len(batch.starts), batch.width, -1)
        for row, (place, part) in enumerate(
            zip(batch.index.tolist(), losses.split(batch.answer_mask.sum(1).tolist()), strict=True)
        ):
            found[place] = part
            # Tokens before the answer count too: it reads them.
            assert slope[row, batch.starts[row] + 1].any()
    for place, one in enumerate(scored):
        torch.testing.assert_close(found[place].detach(), one.losses, rtol=1e-3, atol=1e-4)


def test_inside_unedited_a_bench_is_the_base(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, method=Descent())
    own = {name: p.clone() for name, p in editor.model.named_parameters()}
    editor.edit([EDIT])
    edited = {name: p.clone() for name, p in editor.model.named_parameters()}
    with editor.workbench.unedited():
        assert all(torch.equal(own[n], p) for n, p in editor.model.named_parameters())
    assert all(torch.equal(edited[n], p) for n, p in editor.model.named_parameters())
