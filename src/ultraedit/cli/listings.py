"""`ultraedit methods` and `ultraedit models`: what there is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ultraedit.cli.options import Json


def methods(as_json: Json = False) -> None:
    """List the editing methods."""
    from ultraedit.cli.console import print_json, show
    from ultraedit.methods.registry import available

    rows = [
        asdict(info) | {"undo": ["turn", "edit"] if info.tells_edits_apart else ["turn"]}
        for info in (method.info for method in available().values())
    ]
    if as_json:
        return print_json(rows)
    table = _table("method", "what it does", "source", "needs", "undo", "exports")
    for row in rows:
        needs = [what for what in ("subject", "training") if row[f"needs_{what}"]]
        table.add_row(
            row["name"],
            row["summary"],
            row["reference"],
            ", ".join(needs) or "nothing",
            ", ".join(row["undo"]),
            ", ".join(row["exports"]) or "side memory",
        )
    show(table)
    return None


def models(as_json: Json = False) -> None:
    """List the models with a published choice of modules, and the rule for all others."""
    from ultraedit.cli.console import print_json, show
    from ultraedit.models.presets import PRESETS, RULE

    rows: list[dict[str, Any]] = [
        {
            "model": preset.title,
            "model_types": list(preset.model_types),
            "blocks": preset.blocks,
            "hidden_size": preset.hidden_size,
            "inner_size": preset.inner_size,
            "modules": [f"{s.name} {s.first}-{s.last}" for s in preset.spans],
        }
        for preset in PRESETS
    ]
    if as_json:
        return print_json({"presets": rows, "rule": RULE})
    table = _table("model", "config", "blocks", "edited modules (modules=auto)")
    for row in rows:
        table.add_row(
            row["model"],
            ", ".join(row["model_types"]),
            str(row["blocks"]),
            ", ".join(row["modules"]),
        )
    show(table, f"Any other decoder: {RULE} (ultraedit); for other methods ask `ultraedit inspect`")
    return None


def _table(*columns: str) -> Any:
    from rich.table import Table

    return Table(*columns)
