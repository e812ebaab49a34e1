"""What `ultraedit edit` tells people: the plan beforehand, the outcome afterwards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import typer

from ultraedit.errors import InputError

if TYPE_CHECKING:
    from ultraedit import Editor
    from ultraedit.data import Fault

SHOWN_FAULTS = 20


class Refused:
    """Records that cannot be used: the first ones, counts by kind, and all of them in a file."""

    def __init__(self) -> None:
        self.first: list[Fault] = []
        self.kinds: Counter[str] = Counter()
        self.sink: IO[str] | None = None

    @property
    def count(self) -> int:
        return self.kinds.total()

    def __call__(self, fault: Fault) -> None:
        self.kinds[fault.kind] += 1
        if len(self.first) < SHOWN_FAULTS:
            self.first.append(fault)
        if self.sink is not None:
            line = {"number": fault.number, "fault": str(fault.error), "record": fault.record}
            self.sink.write(json.dumps(line, ensure_ascii=False) + "\n")

    def summary(self) -> str:
        """One line: how many, and of which kinds."""
        kinds = "; ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common(5))
        return f"{_records(self.count)} that cannot be used ({kinds})"


@contextmanager
def refusals(out: Path | None) -> Iterator[Refused]:
    """What takes faulty records, and writes them beside `out` as `OUT.refused.jsonl`, if given."""
    from ultraedit.storage.atomic import named_failures

    refused = Refused()
    if out is None:
        yield refused
        return
    path = out.with_name(f"{out.resolve().name}.refused.jsonl")
    with TemporaryFile("w+", encoding="utf-8") as sink:
        refused.sink = sink
        yield refused
        refused.sink = None
        if refused.count:
            sink.seek(0)
            with named_failures(path), open(path, "w", encoding="utf-8") as kept:
                shutil.copyfileobj(sink, kept)


def show_faults(file: str, refused: Refused, as_json: bool) -> None:
    """List what a file's records lack.

    Raises:
        typer.Exit: always, with the code of bad input.
    """
    from ultraedit.cli.console import print_json, show

    if as_json:
        listed = [{"record": f.number, "fault": str(f.error)} for f in refused.first]
        print_json({"file": file, "faults": refused.count, "kinds": refused.kinds, "first": listed})
    else:
        lines = (f"record {fault.number}: {fault.error}" for fault in refused.first)
        more = refused.count - len(refused.first)
        show(
            f"{file}: {_records(refused.count)} cannot be used",
            *lines,
            *([f"... and {more} more"] if more else []),
            *(f"{count} x {kind}" for kind, count in refused.kinds.most_common()),
            "--skip-invalid edits the others",
        )
    raise typer.Exit(InputError.exit_code)


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


def show_plan(summary: dict[str, Any], editor: Editor, turn_size: int, as_json: bool) -> None:
    from ultraedit.cli.console import print_json, show
    from ultraedit.models.memory import disk_cost, edit_memory, readable, shapes_of

    workbench, method = editor.workbench, editor.method
    shapes = shapes_of(editor.model, editor.modules)
    cost = method.cost(shapes, turn_size)
    memory = edit_memory(
        editor.model, editor.modules, turn_size, workbench.device.type, workbench.batch_tokens,
        cost, workbench.stored,
    )  # fmt: skip
    disk = disk_cost(
        editor.model, editor.modules, turn_size, cost, method.most_passes, workbench.stored
    )
    if as_json:
        return print_json(summary | {"memory": memory, "disk": disk})
    show(
        f"{summary['edits']} edits in {summary['turns']} turns,"
        f" into {len(editor.modules)} modules:",
        *(f"  {name}" for name in editor.modules),
        *(f"memory, {what}: {readable(size)}" for what, size in memory.items()),
        *(f"disk, {what}: {readable(size)}" for what, size in disk.items() if summary["out"]),
        "dry run: nothing was changed",
    )
    return None


def show_summary(summary: dict[str, Any], report: Any, total: int) -> None:
    from ultraedit.cli.console import note, report_table, show

    lost = summary["not_learned"]
    step = "" if summary["lr"] is None else f", lr {summary['lr']:.3g}"
    learned = "not asked" if summary["learned"] is None else summary["learned"]
    in_chat = summary["not_learned_chat"]
    if in_chat is not None and summary["learned"] is not None:
        learned = f"{learned} as plain text, {summary['edits'] - len(in_chat)} in the chat template"
    show(
        f"edits: {summary['edits']}, turns: {summary['turns']}, learned in their turn:"
        f" {learned}, {summary['seconds']:.1f} s{step}"
    )
    if summary["resumed_at"]:
        show(f"resumed after {summary['resumed_at']} edits that were written before")
    if lost:
        show(f"not learned: {', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''}")
    if in_chat and summary["learned"] is not None:
        show(
            f"not learned in the chat template: {', '.join(in_chat[:10])}"
            f"{' ...' if len(in_chat) > 10 else ''}"
        )
    if report is not None:
        show(report_table(report))
    if summary["out"]:
        show(f"edited model: {summary['out']}")
    if summary["interrupted"]:
        written = summary["edits"] + (summary["resumed_at"] or 0)
        note(
            f"interrupted: {written} of {total} edits are written"
            + ("; --resume goes on" if summary["out"] else "")
        )
