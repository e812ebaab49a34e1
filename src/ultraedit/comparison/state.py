"""A comparison as it stands: what is there of every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ultraedit.comparison.folder import Folder, read_object
from ultraedit.comparison.plan import Plan, Run
from ultraedit.comparison.result import Result, finite
from ultraedit.errors import InputError
from ultraedit.evaluation.report import Report

ROUTED = "routed"


@dataclass(frozen=True)
class Comparison:
    """A plan with results.

    Attributes:
        plan: What is compared.
        commands: What made it, one call after the other.
        results: By the run's name, of those that are done.
        failures: By the run's name, why it failed, in one line.
    """

    plan: Plan
    commands: tuple[str, ...] = ()
    results: Mapping[str, Result] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def with_command(self, command: str) -> Comparison:
        """The same with one more call that made it."""
        known = not command or command in self.commands
        return self if known else replace(self, commands=(*self.commands, command))

    def with_result(self, result: Result) -> Comparison:
        """The same with one run done."""
        failures = {n: reason for n, reason in self.failures.items() if n != result.run.name}
        return replace(self, results={**self.results, result.run.name: result}, failures=failures)

    def with_failure(self, run: Run, reason: str) -> Comparison:
        """The same with one run failed."""
        return replace(self, failures={**self.failures, run.name: reason})

    def without_failure(self, run: Run) -> Comparison:
        """The same with a failed run to be tried again."""
        left = {name: reason for name, reason in self.failures.items() if name != run.name}
        return replace(self, failures=left)

    @property
    def unedited(self) -> Report | None:
        """The scores before any edit; all runs have the same."""
        for run in self.plan.runs:
            if run.name in self.results:
                report = self.results[run.name].report
                known = "before" in report.perplexity
                # A side memory that stood aside says nothing of the model.
                scores = {
                    kind: {metric: value for metric, value in found.items() if metric != ROUTED}
                    for kind, found in report.before.items()
                }
                return replace(
                    report,
                    before={},
                    after=scores,
                    perplexity={"after": report.perplexity["before"]} if known else {},
                )
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values: what the summary holds and `--json` prints."""
        unedited = self.unedited
        return {
            "commands": list(self.commands),
            "plan": finite(self.plan.to_json()),
            "unedited": None
            if unedited is None
            else {
                "scores": finite(unedited.after),
                "mean": unedited.mean(),
                "perplexity": unedited.perplexity.get("after"),
            },
            "runs": [self._run(run) for run in self.plan.runs],
        }

    def _run(self, run: Run) -> dict[str, Any]:
        if run.name in self.results:
            return {"state": "done", **self.results[run.name].to_json()}
        if run.name in self.failures:
            return {"state": "failed", "reason": self.failures[run.name], **finite(asdict(run))}
        return {"state": "unfinished", **finite(asdict(run))}


def read_comparison(folder: Folder) -> Comparison | None:
    """What an earlier call left, None where there is nothing.

    Raises:
        InputError: a file of it is damaged.
    """
    if not folder.summary.is_file():
        return None
    content = read_object(folder.summary)
    try:
        plan = Plan.of_json(content["plan"])
        commands = tuple(content["commands"])
        failures = {
            run["name"]: run["reason"] for run in content["runs"] if run["state"] == "failed"
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder.summary} is damaged: it lacks {error}") from error
    results = {}
    for run in plan.runs:
        if (found := read_result(folder, run)) is not None:
            results[run.name] = found
    return Comparison(plan, commands, results, failures)


def read_result(folder: Folder, run: Run) -> Result | None:
    """A run's result, None where it is not done.

    Raises:
        InputError: the file is damaged.
    """
    path = folder.run(run.name).result
    if not path.is_file():
        return None
    try:
        return Result.of_json(read_object(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
