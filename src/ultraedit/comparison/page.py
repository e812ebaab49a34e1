"""The page that people read: the tables, what they are of, and what their columns mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from ultraedit.comparison.plan import Plan, Run
from ultraedit.comparison.state import ROUTED, Comparison
from ultraedit.comparison.table import costs, every_score, scores

LEGEND = (
    "All scores are taken after all edits. Cells are token accuracy / exact match, both"
    " teacher-forced{generated}; under locality they are the agreement with what the unedited"
    " model itself answers, by token / of whole answers. The mean is that of efficacy, rephrase"
    " and locality.",
    "Learned: the share of edits that the model answered when their own turn was done. Time per"
    " edit: of all turns, reading ahead and asking again included, loading, saving and evaluating"
    " not; the first turn, in which some methods prepare, is also shown by itself. Memory: the"
    " most held during a turn beyond the loaded model. Kept per edit: what later turns and"
    " queries need beside the model, divided by the edits.",
)
ROUTING = (
    "Routed: the share of questions of efficacy / rephrase / locality that a side memory answered."
)
AT_ONCE = (
    "Lines marked “all at once” have all edits in a single turn, which no stream of edits allows;"
    " they are there to show what that method gives at its best."
)


def page(comparison: Comparison, picture: str | None) -> str:
    """The whole page in Markdown.

    Args:
        comparison: As it stands.
        picture: The picture's file name beside the page; None where nothing can be drawn.
    """
    plan = comparison.plan
    parts = ["# Methods side by side", _facts(comparison)]
    if comparison.commands:
        parts.append("\n".join(["```", *comparison.commands, "```"]))
    headline = scores(comparison).beside(costs(comparison))
    parts.append(headline.markdown().rstrip())
    if picture is not None:
        parts.append(f"![Efficacy against locality]({picture})")
    elif comparison.results:
        parts.append("There is no picture: no case has a locality probe.")
    generated = ", / right free answers" if plan.options.generate else ""
    parts += [part.format(generated=generated) for part in LEGEND]
    if ROUTED in headline.headers:
        parts.append(ROUTING)
    if any(run.at_once for run in plan.runs):
        parts.append(AT_ONCE)
    parts.append("## How each was run\n\n" + "\n".join(_run(comparison, r) for r in plan.runs))
    if comparison.results:
        parts.append("## Every score\n\n" + every_score(comparison).markdown().rstrip())
    return "\n\n".join(parts) + "\n"


def _facts(comparison: Comparison) -> str:
    plan = comparison.plan
    lines = [
        f"- base: `{plan.model}`" + _fingerprint(plan),
        f"- edits: {plan.edits:,} of `{plan.file}`, in turns of {plan.turn_size:,}",
    ]
    options = ", ".join(_options(plan))
    if options:
        lines.append(f"- options: {options}")
    for machine in _machines(comparison):
        lines.append(f"- measured on: {machine}")
    return "\n".join(lines)


def _options(plan: Plan) -> Iterator[str]:
    """Options that all runs share."""
    for name, value in asdict(plan.options).items():
        word = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            if value or name == "append_eos":
                yield word if value else word.replace("--", "--no-")
        elif name != "text_digest" and value not in (None, "auto"):
            yield f"{word} {value}"


def _fingerprint(plan: Plan) -> str:
    return f", weights `{plan.fingerprint[:12]}`" if plan.fingerprint else ""


def _machines(comparison: Comparison) -> list[str]:
    """Where the results come from; more than one line says that times are not comparable."""
    found = []
    for result in comparison.results.values():
        machine = result.machine
        threads = "" if machine["device"] == "cuda" else f", {_count(machine['threads'], 'thread')}"
        found.append(
            f"{machine['name']} ({machine['device']}{threads}), {machine['dtype']},"
            f" torch {machine['torch']}, transformers {machine['transformers']}"
        )
    return list(dict.fromkeys(found))


def _run(comparison: Comparison, run: Run) -> str:
    settings = ", ".join(f"`{name}={value}`" for name, value in run.settings.items())
    line = f"- {run.title}: {settings or 'default settings'}"
    result = comparison.results.get(run.name)
    if result is None:
        return line
    modules = result.editor["modules"]
    named = ", ".join(f"`{name}`" for name in modules[:3])
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    cost = result.cost
    return f"{line}; {named}{more}; {_count(cost.turns, 'turn')}, {_count(cost.passes, 'pass')}"


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"
