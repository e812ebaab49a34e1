"""Records to cases, field by field, with every fault named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from ultraedit.data.faults import RecordError, describe, one_line
from ultraedit.data.formats import absent
from ultraedit.data.layouts import (
    IDS,
    PROMPT_LAYOUTS,
    Fields,
    Group,
    Layout,
    Names,
    find_layout,
)
from ultraedit.records import PROBE_KINDS, Answers, Case, Edit, Probe, ProbeKind

# These ask for what the edit writes, so they need no answer of their own.
_EXPECT_TARGET = ("rephrase", "persona", "aliasing")


def to_case(fields: Fields, number: int) -> Case:
    """A record as a case.

    Args:
        fields: The record.
        number: Its number in the file, the case's id where the record has none.

    Raises:
        RecordError: unknown layout, or a field that is missing, empty or of a wrong type.
    """
    layout = find_layout(fields)
    subject = _subject(fields, layout)
    target = _target(fields, layout)
    edit = Edit(_prompt(fields, layout, subject), target, subject, _id(fields, number))
    probes = []
    for asked in _asked(fields, layout):
        answer = asked.answer or (target if asked.kind in _EXPECT_TARGET else None)
        # A locality prompt whose answer nobody recorded cannot be scored.
        if answer is not None:
            probes.append(Probe(asked.kind, asked.prompt, answer))
    return Case(edit, tuple(probes))


def to_prompts(fields: Fields, number: int) -> tuple[str, tuple[str, ...]]:
    """Id and prompts of a record for asking a model about what edits must not move.

    Returns:
        The id, and the prompts of the record's locality probes or else its own prompt.

    Raises:
        RecordError: unknown layout, or a field that is missing, empty or of a wrong type.
    """
    layout = find_layout(fields, PROMPT_LAYOUTS)
    asked = _asked(fields, layout)
    locality = tuple(probe.prompt for probe in asked if probe.kind == "locality")
    own = locality or (_prompt(fields, layout, _subject(fields, layout)),)
    return _id(fields, number), own


class _Asked(NamedTuple):
    kind: ProbeKind
    prompt: str
    answer: Answers | None


def _asked(fields: Fields, layout: Layout) -> Iterator[_Asked]:
    for ask in layout.asks:
        prompt_field, prompts = _first_filled(fields, ask.prompt)
        _, answers = _first_filled(fields, ask.answer)
        if len(prompts) > 1 and len(answers) > 1:
            raise RecordError("several prompts share a list of several answers", prompt_field)
        for prompt in prompts:
            asked = f"{prompt}?" if ask.question and not prompt.endswith("?") else prompt
            yield _Asked(ask.kind, asked, _answers(answers) if answers else None)
    for group in layout.groups:
        yield from _grouped(fields, group)
    if layout.listed:
        yield from _listed(fields, layout.listed)


def _grouped(fields: Fields, group: Group) -> Iterator[_Asked]:
    kinds = _at(fields, group.field)
    if not isinstance(kinds, Mapping):
        return
    for name, questions in kinds.items():
        kind = group.kinds.get(name, group.other)
        if kind is None or absent(questions):
            continue
        for index, question in enumerate(questions if isinstance(questions, list) else [questions]):
            place = f"{group.field}.{name}[{index}]"
            if not isinstance(question, Mapping):
                raise RecordError(f"must be an object, not {describe(question)}", place)
            for prompt in _texts(question.get("prompt"), f"{place}.prompt"):
                answers = _flat(question.get("ground_truth"), f"{place}.ground_truth")
                if prompt.strip():
                    yield _Asked(kind, prompt, _answers(answers) if answers else None)


def _flat(value: Any, field: str) -> tuple[str, ...]:
    """The texts of nested lists of accepted answers, each once."""
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(text for item in value for text in _flat(item, field)))
    return tuple(text for text in _texts(value, field) if text.strip())


def _listed(fields: Fields, name: str) -> Iterator[_Asked]:
    probes = _at(fields, name)
    if absent(probes) or probes == "":
        return
    if not isinstance(probes, list):
        raise RecordError(f"must be a list of probes, not {describe(probes)}", name)
    for index, probe in enumerate(probes):
        place = f"{name}[{index}]"
        if not isinstance(probe, dict):
            raise RecordError(f"must be an object, not {describe(probe)}", place)
        kind = probe.get("kind")
        if kind not in PROBE_KINDS:
            found = "missing" if absent(kind) else f"{one_line(kind, 40)!r}"
            raise RecordError(f"is {found}; known are {', '.join(PROBE_KINDS)}", f"{place}.kind")
        prompt = _one(probe.get("prompt"), f"{place}.prompt")
        target = probe.get("target")
        if absent(target) and kind in _EXPECT_TARGET:
            yield _Asked(cast(ProbeKind, kind), prompt, None)
        else:
            answer = _answers(_all_filled(target, f"{place}.target"))
            yield _Asked(cast(ProbeKind, kind), prompt, answer)


def _prompt(fields: Fields, layout: Layout, subject: str | None) -> str:
    field = _present(fields, layout.prompt)
    prompt = _one(_at(fields, field), field)
    # Not str.format: other braces in a prompt are text.
    return prompt.replace("{}", subject) if layout.template and subject else prompt


def _target(fields: Fields, layout: Layout) -> Answers:
    field, answers = _first_filled(fields, layout.target)
    if not answers:
        field = _present(fields, layout.target)
        others = ", ".join(f"'{name}'" for name in layout.target if name != field)
        state = "is missing" if absent(_at(fields, field)) else "is empty"
        raise RecordError(f"{state}, and so is {others}" if others else state, field)
    return _answers(_all_filled(_at(fields, field), field))


def _subject(fields: Fields, layout: Layout) -> str | None:
    subject = _at(fields, layout.subject)
    if absent(subject) or (isinstance(subject, str) and not subject.strip()):
        return None
    return _one(subject, layout.subject)


def _id(fields: Fields, number: int) -> str:
    for name in IDS:
        value = fields.get(name)
        if absent(value) or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise RecordError(f"must be text or a number, not {describe(value)}", name)
        # Tables turn a column of integers with gaps into floats.
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    return str(number)


def _at(fields: Fields, path: str) -> Any:
    """The value at a path, None where there is none."""
    value: Any = fields
    walked: list[str] = []
    for step in path.split("."):
        if absent(value):
            return None
        if not isinstance(value, Mapping):
            raise RecordError(f"must be an object, not {describe(value)}", ".".join(walked))
        value = value.get(step)
        walked.append(step)
    return value


def _present(fields: Fields, names: Names) -> str:
    """The first of the fields that the record has at all, else the first."""
    return next((name for name in names if not absent(_at(fields, name))), names[0])


def _first_filled(fields: Fields, names: Names) -> tuple[str, tuple[str, ...]]:
    """The first of the fields that holds any text, and its texts; "" and none if none does."""
    for name in names:
        texts = tuple(text for text in _texts(_at(fields, name), name) if text.strip())
        if texts:
            return name, texts
    return "", ()


def _all_filled(value: Any, field: str) -> tuple[str, ...]:
    """The texts of a required field that is text or a list of texts."""
    texts = _texts(value, field)
    if not texts or not all(text.strip() for text in texts):
        raise RecordError("is missing" if absent(value) else "is empty", field)
    return texts


def _one(value: Any, field: str) -> str:
    """The text of a required field that is no list."""
    if not (absent(value) or isinstance(value, str)):
        raise RecordError(f"must be text, not {describe(value)}", field)
    return _all_filled(value, field)[0]


def _texts(value: Any, field: str) -> tuple[str, ...]:
    if absent(value):
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise RecordError(f"must be text or a list of texts, not {describe(value)}", field)
    for item in value:
        if not (absent(item) or isinstance(item, str)):
            raise RecordError(f"must hold texts, not {describe(item)}", field)
    return tuple(item for item in value if not absent(item))


def _answers(texts: tuple[str, ...]) -> Answers:
    """One answer as text, several as a tuple."""
    return texts if len(texts) > 1 else texts[0]
