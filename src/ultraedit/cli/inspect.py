"""`ultraedit inspect`: what would be edited in a model, and what that needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultraedit.cli.options import Device, Json, MethodName, Model, Modules, RemoteCode, TurnSize


def inspect(
    model: Model,
    method: MethodName = "auto",
    modules: Modules = "auto",
    turn_size: TurnSize = 100,
    device: Device = "auto",
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Show which modules would be edited, their shapes, and the memory and disk it will need.

    Reads the configuration only, so a model of any size is inspected at once.
    """
    from ultraedit import storage
    from ultraedit.cli.console import print_json, quiet_libraries, show, trust_code
    from ultraedit.methods.registry import method_class
    from ultraedit.models.load import (
        automatic_dtype,
        load_skeleton,
        resolve,
        resolve_device,
        resolve_dtype,
    )
    from ultraedit.models.memory import (
        TOKENS_PER_EDIT,
        disk_cost,
        edit_memory,
        readable,
        shapes_of,
    )
    from ultraedit.models.presets import choose_modules, preset_of, published_modules

    quiet_libraries()
    if remote_code:
        trust_code(model)
    skeleton = load_skeleton(model)
    source = resolve(model)
    storage.settle_if_free(Path(source))
    edited = storage.read_settings(source) if storage.is_edited_model(source) else None
    wanted: Any = edited["modules"] if edited and modules == "auto" else modules
    kind = method_class(edited["method"] if edited else method)
    names = choose_modules(skeleton, wanted, kind.modules)
    preset = preset_of(skeleton)
    where = resolve_device(device)
    place, stored = where.type, skeleton.dtype
    computed = resolve_dtype((edited or {}).get("dtype", "auto"))
    if computed == "auto":
        computed = automatic_dtype(model, skeleton.config, where)
    computing = skeleton if computed == "auto" else skeleton.to(computed)
    editing = kind.with_settings(edited["method_settings"] if edited else {})
    shapes = shapes_of(skeleton, names)
    cost = editing.cost(shapes, turn_size)
    memory = edit_memory(computing, names, turn_size, place, cost=cost, stored=stored)
    disk = disk_cost(skeleton, names, turn_size, cost, editing.most_passes, stored)
    result: dict[str, Any] = {
        "model": model,
        "architecture": type(skeleton).__name__,
        "dtype": str(stored).removeprefix("torch."),
        "compute_dtype": str(computing.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in skeleton.parameters()),
        "preset": preset.title if preset else None,
        "edited": {k: edited[k] for k in ("method", "turns", "edits")} if edited else None,
        "modules": [
            {"name": name, "inputs": inputs, "outputs": outputs}
            for name, (inputs, outputs) in zip(names, shapes, strict=True)
        ],
        "turn_size": turn_size,
        "device": place,
        "memory": memory,
        "disk": disk,
    }
    if as_json:
        return print_json(result)
    from rich.table import Table

    table = Table("module", "inputs", "outputs")
    for row in result["modules"]:
        table.add_row(row["name"], str(row["inputs"]), str(row["outputs"]))
    choice = f"the paper's choice for {preset.title}" if preset else "the rule for any decoder"
    if names != published_modules(skeleton):
        choice = f"the choice of method {kind.info.name}"
    show(
        f"{result['architecture']}, {result['parameters']:,} parameters, {result['dtype']},"
        f" computed in {result['compute_dtype']}; edited modules:"
        f" {choice if modules == 'auto' and not edited else 'as named'}",
        table,
    )
    if edited:
        show(f"edited with {edited['method']}: {edited['edits']} edits in {edited['turns']} turns")
    needs = Table(
        f"memory in turns of {turn_size}",
        "",
        caption=f"peak: at most at once on {place} beside the weights, at {TOKENS_PER_EDIT}"
        " tokens an edit",
    )
    for what, size in memory.items():
        needs.add_row(what, readable(size))
    takes = Table(
        f"disk in turns of {turn_size}", "", caption="--history full|N|none bounds the history"
    )
    for what, size in disk.items():
        takes.add_row(what, readable(size))
    show(needs, takes)
    return None
