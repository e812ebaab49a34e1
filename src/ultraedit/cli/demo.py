"""`ultraedit demo`: a model corrected before your eyes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.options import Device, Json, Quiet

if TYPE_CHECKING:
    from ultraedit import Case, CaseResult, Edit, Editor, Report, Turn

SHOWN = 5
ANSWER_TOKENS = 12


def demo(
    model: Annotated[
        str | None,
        typer.Option(help="Model to correct. [default: smollm2 where it was fetched, else demo]"),
    ] = None,
    edits: Annotated[int, typer.Option(min=1, help="Facts to change, at most.")] = 100,
    turn_size: Annotated[int, typer.Option(min=1, help="Edits written at once.")] = 100,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Correct a model and ask it again: before, after, reworded, in chat, and one taken back.

    smollm2 (python -m ultraedit.models.fetch smollm2) gets a dozen everyday corrections; the
    embedded model `demo` gets up to 100 changed facts of those that it was trained on.
    """
    from ultraedit.cli.console import print_json, quiet_libraries, show

    quiet_libraries()
    shown = perform(edits, turn_size, device, model, quiet=as_json or quiet)
    if as_json:
        return print_json(shown.to_dict())
    show(*shown.renderables())
    return None


@dataclass(frozen=True)
class Asked:
    """One question with its free answers before and after.

    Attributes:
        kind: `edited`, `rephrase`, `plain` (a statement, without the chat template), `locality` or
            `undone`.
        prompt: The question.
        before: The unedited model's answer; of `undone` the edited one's.
        after: The edited model's answer; of `undone` that of the model without this edit.
    """

    kind: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Performance:
    """What a run of the demo did and measured."""

    model: str
    cases: list[Case]
    modules: list[str]
    turns: list[Turn]
    report: Report
    plain: list[Asked]
    undone: list[Asked]

    @property
    def seconds(self) -> float:
        return sum(turn.seconds for turn in self.turns)

    def examples(self) -> list[list[Asked]]:
        """The first few cases, whatever became of them: none is picked for its looks."""
        pairs = zip(self.cases[:SHOWN], self.report.cases, strict=False)
        return [
            [*example(case, result), *self.plain[place : place + 1]]
            for place, (case, result) in enumerate(pairs)
        ]

    def plain_rate(self) -> float | None:
        """How many statements the target completes; None where there was no template to leave."""
        from ultraedit.evaluation.matching import matches

        right = [
            matches(asked.after, case.edit.answers)
            for asked, case in zip(self.plain, self.cases, strict=False)
        ]
        return sum(right) / len(right) if right else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "edits": len(self.cases),
            "learned": sum(sum(turn.learned) for turn in self.turns),
            "seconds": round(self.seconds, 3),
            "modules": self.modules,
            "examples": [[vars(asked) for asked in rows] for rows in self.examples()],
            "plain": {
                "generation": self.plain_rate(),
                "answers": [vars(one) for one in self.plain],
            },
            "undone": [vars(asked) for asked in self.undone],
            "report": self.report.to_dict(),
        }

    def renderables(self) -> list[Any]:
        from ultraedit.cli.console import report_table

        shown = [
            _table(self.examples()),
            f"Facts of {self.model} changed: {len(self.cases)}, in {self.seconds:.1f} s and"
            f" {len(self.modules)} modules. Every question was asked after all edits:",
            report_table(self.report),
        ]
        if (rate := self.plain_rate()) is not None:
            shown.append(
                "All this was asked in the chat template. As plain text, a statement was completed"
                f" with the new answer in {rate:.0%} of the cases."
            )
        return [*shown, "The last edit taken back, and the one before it asked again:",
                _table([self.undone])]  # fmt: skip


def perform(
    edits: int, turn_size: int, device: str, model: str | None = None, *, quiet: bool = True
) -> Performance:
    """Correct a model with its ready-made cases, ask it, and take the last correction back."""

    from ultraedit import Editor
    from ultraedit.cli.console import progress_bars
    from ultraedit.data import read_cases
    from ultraedit.demo import CASES_FILE, CORRECTIONS_FILE
    from ultraedit.models.named import is_fetched

    model = model or ("smollm2" if is_fetched("smollm2") else "demo")
    editor = Editor.from_pretrained(model, device=device)
    chat = editor.chat == "both"
    file = CASES_FILE if model == "demo" else CORRECTIONS_FILE
    cases = list(read_cases(file, limit=edits))
    with progress_bars(quiet) as editor.workbench.progress:
        turns = [
            editor.edit([case.edit for case in cases[start : start + turn_size]])
            for start in range(0, len(cases), turn_size)
        ]
    plain: list[Asked] = []
    if chat:
        editor.workbench.encoder = replace(editor.workbench.encoder, chat=True)
        statements = [statement(case) for case in cases]
        with editor.unedited():
            before = without_template(editor, statements)
        pairs = zip(statements, before, without_template(editor, statements), strict=True)
        plain = [Asked("plain", *answers) for answers in pairs]
    report = editor.evaluate(cases, generate=True)
    undone = taken_back(editor, [case.edit for case in cases[:-3:-1]])
    return Performance(model, cases, editor.modules, turns, report, plain, undone)


def statement(case: Case) -> str:
    """The last of the case's other phrasings: in the corrections the beginning of a statement."""
    return [probe.prompt for probe in case.probes if probe.kind == "rephrase"][-1]


def without_template(editor: Editor, prompts: Sequence[str]) -> list[str]:
    """Free answers to the prompts as plain text."""
    encoder = replace(editor.workbench.encoder, chat=False)
    ids = [encoder.prompt_ids(prompt) for prompt in prompts]
    return [answer.text for answer in editor.workbench.answers(ids, ANSWER_TOKENS)]


def taken_back(editor: Editor, edits: Sequence[Edit]) -> list[Asked]:
    """The edits' answers before and after the first of them is undone in a saved model."""
    prompts = [edit.prompt for edit in edits]
    before = [editor.ask(prompt, ANSWER_TOKENS) for prompt in prompts]
    with tempfile.TemporaryDirectory(prefix="ultraedit-demo-") as folder:
        editor.save(f"{folder}/out")
        editor.undo(edit=edits[0].id)
    after = [editor.ask(prompt, ANSWER_TOKENS) for prompt in prompts]
    kinds = ["undone"] + ["edited"] * (len(prompts) - 1)
    return [Asked(*one) for one in zip(kinds, prompts, before, after, strict=True)]


def example(case: Case, result: CaseResult) -> list[Asked]:
    """The edit and the first question of every other kind, with the free answers to each."""
    asked = {"edited": case.edit.prompt}
    for probe in case.probes:
        asked.setdefault(probe.kind, probe.prompt)
    rows = []
    for kind, prompt in asked.items():
        key = "efficacy" if kind == "edited" else kind
        before, after = (result.answers[state][key][0] for state in ("before", "after"))
        rows.append(Asked(kind, prompt, before, after))
    return rows


def _table(sections: Sequence[Sequence[Asked]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "question", "before", "after")
    for rows in sections:
        for row in rows:
            style = "bold" if row.before != row.after else ""
            table.add_row(
                Text(row.kind), Text(row.prompt), Text(row.before), Text(row.after, style=style)
            )
        table.add_section()
    return table
