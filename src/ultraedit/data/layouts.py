"""The native record and the published layouts: which field holds what, and telling them apart.

To add a layout, add a row to `LAYOUTS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ultraedit.data.faults import RecordError, one_line
from ultraedit.data.formats import absent
from ultraedit.records import ProbeKind

Fields = Mapping[str, Any]
Names = tuple[str, ...]

IDS: Names = ("id", "case_id")


@dataclass(frozen=True)
class Ask:
    """Where a layout keeps one kind of probe.

    Attributes:
        kind: Kind of the probes.
        prompt: Fields that may hold the prompt or a list of prompts; the first filled counts.
        answer: Fields that may hold the answer; none where the edit's target is expected.
        question: Whether prompts are questions whose question mark was left out.
    """

    kind: ProbeKind
    prompt: Names
    answer: Names = ()
    question: bool = False


@dataclass(frozen=True)
class Group:
    """A field with an object of lists of `{"prompt", "ground_truth"}` objects, as KnowEdit has.

    Attributes:
        field: Where the object is.
        kinds: Its fields -> the kind of the probes there.
        other: The kind of the probes in its other fields; None if they are not read.
    """

    field: str
    kinds: Mapping[str, ProbeKind]
    other: ProbeKind | None = None


@dataclass(frozen=True)
class Layout:
    """Where one data set keeps the parts of a case; `a.b` is field `b` of the object `a`.

    Attributes:
        name: What people call it.
        required: Fields by which it is recognised.
        prompt: Fields that may hold the prompt; the first filled one counts.
        target: Fields that may hold the target or a list of accepted ones, likewise.
        asks: Where its probes are.
        subject: Field of the subject.
        template: Whether `{}` in the prompt stands for the subject.
        groups: Fields with probes by their kind, read where they hold objects.
        ignored: Fields that repeat what others say.
        listed: Field with a list of `{"kind", "prompt", "target"}` objects, if it has one.
    """

    name: str
    required: Names
    prompt: Names
    target: Names
    asks: tuple[Ask, ...] = ()
    subject: str = "subject"
    template: bool = False
    groups: tuple[Group, ...] = ()
    ignored: Names = ()
    listed: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """Every field of a record that the layout reads."""
        paths = [*IDS, *self.prompt, *self.target, self.subject, self.listed]
        paths += self.ignored
        paths += [group.field for group in self.groups]
        paths += [path for ask in self.asks for path in ask.prompt + ask.answer]
        return frozenset(path.partition(".")[0] for path in paths)


_LOCALITY = Ask("locality", ("loc", "locality_prompt"), ("loc_ans", "locality_ground_truth"))
_REPHRASE = Ask("rephrase", ("rephrase", "rephrase_prompt"))
_GROUPS = (
    Group(
        "portability",
        {
            "Reasoning": "reasoning", "reasoning": "reasoning", "one_hop": "reasoning",
            "Subject_Aliasing": "aliasing", "synonym": "aliasing",
            "Logical_Generalization": "logical", "inverse_relation": "logical",
        },
    ),
    Group("locality", {}, other="locality"),
)  # fmt: skip
_PORTABILITY = (Ask("persona", ("personas",)), Ask("multihop", ("mhop",), ("mhop_ans",)))

LAYOUTS: tuple[Layout, ...] = (
    Layout("native", ("prompt", "target"), ("prompt",), ("target",), listed="probes"),
    Layout(
        "zsRE",
        ("src",),
        ("src",),
        ("alt", "ans", "answers"),
        (Ask("rephrase", ("rephrase",)), Ask("locality", ("loc",), ("loc_ans",), question=True)),
        ignored=("cond",),
    ),
    Layout(
        "nested CounterFact",
        ("requested_rewrite",),
        ("requested_rewrite.prompt",),
        ("requested_rewrite.target_new.str",),
        (
            Ask("rephrase", ("paraphrase_prompts",)),
            Ask("locality", ("neighborhood_prompts",), ("requested_rewrite.target_true.str",)),
        ),
        subject="requested_rewrite.subject",
        template=True,
    ),
    Layout(
        "FEVER",
        ("prompt", "alt"),
        ("prompt",),
        ("alt",),
        (
            Ask("rephrase", ("equiv_prompt",)),
            Ask("locality", ("unrel_prompt",), ("unrel_ans",)),
        ),
    ),
    Layout(
        "WikiBigEdit",
        ("update",),
        ("update",),
        ("ans", "target_new"),
        (_REPHRASE, _LOCALITY, *_PORTABILITY),
    ),
    Layout(
        "CounterFact, WikiBigEdit or KnowEdit",
        ("prompt", "target_new"),
        ("prompt",),
        ("target_new",),
        (_REPHRASE, _LOCALITY, *_PORTABILITY),
        groups=_GROUPS,
    ),
    Layout(
        "UltraEditBench",
        ("prompt", "ans"),
        ("prompt",),
        ("ans",),
        (_REPHRASE, _LOCALITY, *_PORTABILITY),
    ),
)

# What `check` asks needs no target; records that are no edits come as bare prompts.
PROMPT_LAYOUTS: tuple[Layout, ...] = (
    *LAYOUTS,
    Layout("prompts", ("prompt",), ("prompt",), (), (_LOCALITY,), listed="probes"),
)


# Names of fields that other layouts keep questions in.
_QUESTIONS = re.compile(
    r"prompt|question|query|rephras|paraphras|probe|locality|portab|hop$|persona|neighbou?r", re.I
)


def unread_questions(fields: Fields, layout: Layout) -> Iterator[str]:
    """Fields of a record that look like questions and that its layout does not read."""
    for name, value in fields.items():
        if name not in layout.fields and not absent(value) and _has_questions(name, value):
            yield name
    for group in layout.groups:
        inside = fields.get(group.field)
        if isinstance(inside, Mapping) and group.other is None:
            unknown = (name for name in inside if name not in group.kinds and inside[name])
            yield from (f"{group.field}.{name}" for name in unknown)


def _has_questions(name: str, value: object) -> bool:
    if isinstance(value, str):
        return value.rstrip().endswith("?") or bool(value.strip() and _QUESTIONS.search(name))
    if isinstance(value, Mapping):
        return any(_has_questions(str(key), item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(_has_questions(name, item) for item in value)


def find_layout(fields: Fields, layouts: Sequence[Layout] = LAYOUTS) -> Layout:
    """The layout of a record.

    A record that lacks a required field, but has nothing that its layout does not know, is
    taken for that layout, so that the missing field can be named.

    Raises:
        RecordError: no layout has these fields.
    """
    names = fields.keys()
    for layout in layouts:
        if names >= set(layout.required):
            return layout
    for layout in layouts:
        if names <= layout.fields and not names.isdisjoint(layout.required):
            return layout
    seen = ", ".join(one_line(name, 40) for name in list(names)[:12]) or "none"
    known = "; ".join(f"{layout.name} ({', '.join(layout.required)})" for layout in layouts)
    raise RecordError(f"its fields match no known layout; fields: {seen}; known: {known}")
