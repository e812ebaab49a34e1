"""A comparison as rows of text: made once, for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ultraedit.comparison.formatting import NOTHING, perplexity, seconds, share, size
from ultraedit.comparison.plan import Run
from ultraedit.comparison.result import Result
from ultraedit.comparison.state import ROUTED, Comparison
from ultraedit.evaluation.report import HEADLINE, KINDS, Report

UNEDITED = "unedited"
METRICS = ("token_accuracy", "exact_match", "generation")
AGREEMENT = ("agreement", "agreement_exact")
LABELS = {
    "token_accuracy": "token",
    "exact_match": "exact",
    "generation": "generated",
    "agreement": "agreement",
    "agreement_exact": "agreement exact",
    ROUTED: "routed",
}


@dataclass(frozen=True)
class Table:
    """Cells under headers; the first column names the row.

    Attributes:
        headers: One a column.
        rows: As many cells each.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def beside(self, other: Table) -> Table:
        """One table of both, which have the same rows."""
        pairs = zip(self.rows, other.rows, strict=True)
        return Table(
            (*self.headers, *other.headers[1:]),
            tuple((*left, *right[1:]) for left, right in pairs),
        )

    def markdown(self) -> str:
        """The table in Markdown; columns but the first stand to the right."""
        lines = [self.headers, ("---", *("---:" for _ in self.headers[1:])), *self.rows]
        return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def scores(comparison: Comparison, reasons: bool = True) -> Table:
    """A line per run, the unedited model first: each kind of question, and the mean.

    Args:
        comparison: As it stands.
        reasons: Whether a failed run's line says why it failed.
    """
    reports = [report for _, report in _lines(comparison) if report is not None]
    metrics = [metric for metric in METRICS if _any_has(reports, metric)]
    kinds = [kind for kind in KINDS if any(kind in report.after for report in reports)]
    rows: list[tuple[str, ...]] = []
    for run, report in _lines(comparison):
        if report is not None:
            cells = [_cell(report, kind, metrics) for kind in kinds]
            mean = " / ".join(share(report.mean(metric)) for metric in metrics)
            rows.append((_title(run), *cells, mean))
        else:
            state = _state(comparison, run, reasons)
            rows.append((_title(run), state, *[NOTHING] * max(len(kinds), 1)))
    return Table(("method", *(kinds or HEADLINE[:1]), "mean"), tuple(rows))


def costs(comparison: Comparison) -> Table:
    """The same lines: what editing took, and what is kept beside the model."""
    reports = [report for _, report in _lines(comparison) if report is not None]
    columns: dict[str, Callable[[Result], str]] = {
        "learned": lambda result: share(result.cost.learned / result.cost.edits),
        "time per edit": lambda result: seconds(result.cost.seconds_per_edit),
        "first turn": lambda result: seconds(result.cost.first_turn_seconds),
        "memory": lambda result: size(result.cost.memory_bytes),
        "kept per edit": lambda result: size(result.cost.kept_bytes_per_edit),
    }
    if _any_has(reports, ROUTED):
        columns = {ROUTED: lambda result: _routed(result.report), **columns}
    measured = any(report.perplexity for report in reports)
    rows: list[tuple[str, ...]] = []
    for run, report in _lines(comparison):
        result = comparison.results.get(run.name) if run is not None else None
        cells = [NOTHING if result is None else cell(result) for cell in columns.values()]
        if measured:
            known = report is not None and "after" in report.perplexity
            cells.append(perplexity(report.perplexity["after"]) if report and known else NOTHING)
        rows.append((_title(run), *cells))
    return Table(("method", *columns, *(["perplexity"] if measured else [])), tuple(rows))


def every_score(comparison: Comparison) -> Table:
    """A line per run and kind of question, with the columns of `ultraedit evaluate`."""
    found = [(run, report) for run, report in _lines(comparison) if report is not None]
    metrics = [metric for metric in LABELS if _any_has([report for _, report in found], metric)]
    rows = [
        (
            _title(run),
            kind,
            str(report.counts.get(kind, 0)),
            *(share(report.after[kind].get(metric)) for metric in metrics),
        )
        for run, report in found
        for kind in KINDS
        if kind in report.after
    ]
    headers = ("method", "question", "cases", *(LABELS[metric] for metric in metrics))
    return Table(headers, tuple(rows))


def _lines(comparison: Comparison) -> list[tuple[Run | None, Report | None]]:
    """Every line's run, None for the unedited model, with its scores where they are there."""
    unedited = comparison.unedited
    lines: list[tuple[Run | None, Report | None]] = []
    if unedited is not None:
        lines.append((None, unedited))
    for run in comparison.plan.runs:
        result = comparison.results.get(run.name)
        lines.append((run, None if result is None else result.report))
    return lines


def _title(run: Run | None) -> str:
    return UNEDITED if run is None else run.title


def _state(comparison: Comparison, run: Run | None, reasons: bool) -> str:
    reason = comparison.failures.get(run.name) if run is not None else None
    if reason is None:
        return "not finished"
    return f"failed: {reason}" if reasons else "failed"


def _any_has(reports: Sequence[Report], metric: str) -> bool:
    return any(metric in found for report in reports for found in report.after.values())


def _cell(report: Report, kind: str, metrics: Sequence[str]) -> str:
    """Token accuracy, exact match and free answers; under locality both agreements."""
    found = report.after.get(kind, {})
    if kind == "locality" and AGREEMENT[0] in found:
        metrics = AGREEMENT
    if not found:
        return NOTHING
    return " / ".join(share(found.get(metric)) for metric in metrics)


def _routed(report: Report) -> str:
    """The share that a side memory answered, of each kind of question."""
    kinds = [kind for kind in HEADLINE if ROUTED in report.after.get(kind, {})]
    return " / ".join(f"{report.after[kind][ROUTED]:.2f}" for kind in kinds) or NOTHING


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
