"""Ask an edited model, and the model it was, every question of the cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from ultraedit.encoding.tokenise import Encoded, Encoder
from ultraedit.errors import InputError
from ultraedit.evaluation.baseline import Baseline, Measured, Unedited
from ultraedit.evaluation.matching import matches
from ultraedit.evaluation.perplexity import perplexity
from ultraedit.evaluation.report import CaseResult, Report, Scores, Tally, mean_scores
from ultraedit.forward.generate import Answer
from ultraedit.records import Case, Edit
from ultraedit.workbench import ModelWorkbench

CHUNK = 512
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Question:
    """One prompt of a case.

    Attributes:
        case: Place of the case in its chunk.
        kind: `efficacy`, or the probe's kind.
        answers: Accepted ones.
        texts: The prompt with each accepted answer, as tokens.
        prompt_ids: The prompt alone, as a free answer starts from it.
    """

    case: int
    kind: str
    answers: tuple[str, ...]
    texts: tuple[Encoded, ...]
    prompt_ids: tuple[int, ...]


def evaluate(
    workbench: ModelWorkbench,
    cases: Iterable[Case | Edit],
    *,
    unedited: Callable[[], AbstractContextManager[object]] | None,
    baseline: bool = True,
    generate: bool = False,
    text: str | Path | None = None,
    keep_cases: bool = True,
    on_case: Callable[[CaseResult], None] | None = None,
    answer_tokens: int = ANSWER_TOKENS,
    kept_baseline: Baseline | None = None,
) -> Report:
    """Scores of all cases after editing, beside the unedited model's.

    Args:
        workbench: The edited model.
        cases: Read lazily, a few hundred at a time; an edit is a case without probes.
        unedited: A context in which `workbench.model` answers as it did before any edit; None
            where no such model is known, and nothing is compared then.
        baseline: Whether to score the unedited model too. Locality agreement is measured
            in any case.
        generate: Also let the model answer freely.
        text: A text file for perplexity.
        keep_cases: Whether the report holds every case's result.
        on_case: Called with every case's result.
        answer_tokens: Where a free answer is cut.
        kept_baseline: Holds what the unedited model answered in an earlier evaluation, or will.

    Raises:
        InputError: no cases, or a text the model cannot read.
    """
    began = time.perf_counter()
    before, after = Tally(), Tally()
    kept: list[CaseResult] = []
    count = 0
    whole = (Case(case) if isinstance(case, Edit) else case for case in cases)
    for chunk in _chunks(whole, CHUNK):
        for result in _evaluate_chunk(
            workbench, chunk, count, unedited, baseline, generate, answer_tokens, kept_baseline
        ):
            before.add(result.before)
            after.add(result.after)
            count += 1
            if keep_cases:
                kept.append(result)
            if on_case:
                on_case(result)
    if not count:
        raise InputError("there are no cases to evaluate")
    drift: dict[str, float | None] = {}
    if text is not None:
        if unedited is not None:
            before_edits = partial(_perplexity, workbench, text, unedited)
            drift["before"] = (
                kept_baseline.perplexity(before_edits) if kept_baseline else before_edits()
            )
        drift["after"] = _perplexity(workbench, text)
    return Report(
        count=count,
        counts=after.cases(),
        before=before.means(),
        after=after.means(),
        perplexity=drift,
        seconds=time.perf_counter() - began,
        cases=tuple(kept),
    )


def _perplexity(
    workbench: ModelWorkbench,
    text: str | Path,
    state: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> float | None:
    with state():
        return perplexity(workbench.model, workbench.tokenizer, text, device=workbench.device)


def questions(case: Case, place: int, encoder: Encoder) -> Iterator[Question]:
    """The edit itself (efficacy) and every probe."""
    asked = [("efficacy", case.edit.prompt, case.edit.answers)]
    asked += [(probe.kind, probe.prompt, probe.answers) for probe in case.probes]
    for kind, prompt, answers in asked:
        texts = tuple(encoder.encode(prompt, answer) for answer in answers)
        yield Question(place, kind, answers, texts, tuple(encoder.prompt_ids(prompt)))


def _evaluate_chunk(
    workbench: ModelWorkbench,
    chunk: Sequence[Case],
    start: int,
    unedited: Callable[[], AbstractContextManager[object]] | None,
    baseline: bool,
    generate: bool,
    answer_tokens: int,
    kept_baseline: Baseline | None,
) -> Iterator[CaseResult]:
    asked = [
        question
        for place, case in enumerate(chunk)
        for question in questions(case, place, workbench.encoder)
    ]
    for question in asked:
        case = chunk[question.case]
        for encoded in question.texts:
            workbench.check_length(
                encoded, f"{question.kind} of case {case.edit.id or start + question.case + 1}"
            )
    local = [i for i, question in enumerate(asked) if question.kind == "locality"]

    def own_answers(found: Mapping[int, tuple[int, ...]]) -> dict[int, Encoded]:
        return {i: Encoded(asked[i].prompt_ids, ids, len(ids)) for i, ids in found.items()}

    def ask_unedited() -> Unedited:
        assert unedited is not None
        with unedited():
            free = _free(workbench, [asked[i] for i in local], answer_tokens) if local else []
            found = {i: answer.ids for i, answer in zip(local, free, strict=True)}
            if not baseline:
                return Unedited(found, [])
            measured = _measure(workbench, asked, own_answers(found), generate, answer_tokens)
            return Unedited(found, measured)

    if unedited is None:
        known = Unedited({}, [])
    else:
        known = kept_baseline.answers(ask_unedited) if kept_baseline else ask_unedited()
    old = known.measured
    new = _measure(workbench, asked, own_answers(known.own), generate, answer_tokens)
    of_case: list[list[int]] = [[] for _ in chunk]
    for i, question in enumerate(asked):
        of_case[question.case].append(i)
    for place, (case, mine) in enumerate(zip(chunk, of_case, strict=True)):
        answers: dict[str, dict[str, list[str]]] = {}
        for state, measured in (("before", old), ("after", new)):
            for i in mine if measured else ():
                free_answer = measured[i].answer
                if free_answer is not None:
                    answers.setdefault(state, {}).setdefault(asked[i].kind, []).append(
                        free_answer.text
                    )
        yield CaseResult(
            id=case.edit.id or str(start + place + 1),
            prompt=case.edit.prompt,
            target=case.edit.answers[0],
            before=_by_kind(asked, old, mine),
            after=_by_kind(asked, new, mine),
            answers=answers,
        )


def _by_kind(
    asked: Sequence[Question], measured: Sequence[Measured], mine: Sequence[int]
) -> Scores:
    return mean_scores((asked[i].kind, measured[i].scores) for i in mine) if measured else {}


def _measure(
    workbench: ModelWorkbench,
    asked: Sequence[Question],
    own: dict[int, Encoded],
    generate: bool,
    answer_tokens: int,
) -> list[Measured]:
    """Every question's scores; of several accepted answers the best one counts."""
    texts = [text for question in asked for text in question.texts]
    scored = workbench.score([*texts, *own.values()])
    agreed = dict(zip(own, scored[len(texts) :], strict=True))
    free = _free(workbench, asked, answer_tokens) if generate else [None] * len(asked)
    remaining = iter(scored)
    measured = []
    for place, (question, answer) in enumerate(zip(asked, free, strict=True)):
        candidates = list(islice(remaining, len(question.texts)))
        scores = {
            "token_accuracy": max(s.token_accuracy for s in candidates),
            "exact_match": float(any(s.exact for s in candidates)),
        }
        if candidates[0].routed is not None:
            scores["routed"] = float(candidates[0].routed)
        if answer is not None:
            scores["generation"] = float(matches(answer.text, question.answers))
        if place in agreed:
            scores["agreement"] = agreed[place].token_accuracy
            scores["agreement_exact"] = float(agreed[place].exact)
            if answer is not None:
                scores["ends_earlier"] = float(len(answer.ids) < len(own[place].target))
        measured.append(Measured(scores, answer))
    return measured


def _free(workbench: ModelWorkbench, asked: Sequence[Question], answer_tokens: int) -> list[Answer]:
    return workbench.answers([question.prompt_ids for question in asked], answer_tokens)


def _chunks(cases: Iterable[Case], size: int) -> Iterator[list[Case]]:
    iterator = iter(cases)
    while chunk := list(islice(iterator, size)):
        yield chunk
