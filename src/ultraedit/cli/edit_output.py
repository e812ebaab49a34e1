"""What `ultraedit edit` tells people: the plan beforehand, the outcome afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultraedit import Editor


def show_plan(summary: dict[str, Any], editor: Editor, turn_size: int, as_json: bool) -> None:
    from ultraedit.cli.console import print_json, show
    from ultraedit.models.memory import disk_cost, edit_memory, readable, shapes_of

    bench, method = editor.bench, editor.method
    shapes = shapes_of(editor.model, editor.modules)
    held, beside = method.state_bytes(shapes), method.tokens_beside(turn_size)
    memory = edit_memory(
        editor.model,
        editor.modules,
        turn_size,
        bench.device.type,
        bench.batch_tokens,
        held,
        beside,
        bench.stored,
    )
    disk = disk_cost(
        editor.model, editor.modules, turn_size, method.disk_bytes(shapes), method.most_passes,
        method.record_bytes(shapes), bench.stored,
    )  # fmt: skip
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
    show(
        f"edits: {summary['edits']}, turns: {summary['turns']}, learned in their turn:"
        f" {learned}, {summary['seconds']:.1f} s{step}"
    )
    if summary["resumed_at"]:
        show(f"resumed after {summary['resumed_at']} edits that were written before")
    if lost:
        show(f"not learned: {', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''}")
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
