"""`ultraedit export`: an edited model in a form that needs nothing of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ultraedit.cli.options import Json, RemoteCode


def export(
    out: Annotated[str, typer.Argument(help="An edited model.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="checkpoint: a plain model folder. delta: the edited weights in one file, for"
            " `ultraedit apply`. lora: a PEFT adapter.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A folder that is not there yet or is empty; for a delta, a new file.",
            show_default=False,
        ),
    ],
    rank: Annotated[
        int | None, typer.Option(help="Rank of the LoRA; by default the tolerance decides.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest error of the LoRA in any module, relative to what the edits changed;"
            " 0.05 if neither this nor --rank is given."
        ),
    ] = None,
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Write an edited model as a plain checkpoint, a small delta, or a LoRA adapter."""
    from ultraedit.cli.console import quiet_libraries, trust_code
    from ultraedit.errors import InputError
    from ultraedit.export import FORMATS
    from ultraedit.storage import settle_if_free

    quiet_libraries()
    if remote_code:
        trust_code(out)
    settle_if_free(Path(out))
    if form not in FORMATS:
        raise InputError(f"there is no format {form!r}; there is {', '.join(FORMATS)}")
    if form != "lora" and not (rank is None and tolerance is None):
        raise InputError("--rank and --tolerance belong to --format lora")
    if form == "lora":
        _lora(out, output, rank, tolerance, as_json)
    elif form == "delta":
        _delta(out, output, as_json)
    else:
        _checkpoint(out, output, as_json)


def _checkpoint(out: str, output: Path, as_json: bool) -> None:
    from ultraedit.cli.console import print_json, show
    from ultraedit.export import checkpoint

    written = checkpoint.write(out, output)
    result = written_result(out, written)
    if as_json:
        return print_json({"format": "checkpoint", **result})
    show(written_line(written))
    return None


def _delta(out: str, output: Path, as_json: bool) -> None:
    from ultraedit.cli.console import print_json, show
    from ultraedit.export import delta
    from ultraedit.models.memory import readable

    written = delta.write(out, output)
    size = output.stat().st_size
    if as_json:
        return print_json(
            {
                "format": "delta",
                "source": out,
                "path": str(output),
                "method": written.method,
                "turns": written.turns,
                "edits": written.edits,
                "base": written.base_name or None,
                "base_fingerprint": written.base,
                "tensors": list(written.tensors),
                "bytes": size,
            }
        )
    show(
        f"{output}: {written.edits} edits in {written.turns} turns, {len(written.tensors)}"
        f" weights, {readable(size)}",
        f"of {written.base_name or 'a base'} with the fingerprint {written.base}",
    )
    return None


def _lora(out: str, output: Path, rank: int | None, tolerance: float | None, as_json: bool) -> None:
    from rich.table import Table

    from ultraedit.cli.console import print_json, show
    from ultraedit.export import lora
    from ultraedit.history.contributions import contributions

    written = lora.write(
        out,
        output,
        rank=rank,
        tolerance=tolerance,
        shifts=contributions(Path(out)),
    )
    result: dict[str, Any] = {
        "format": "lora",
        "source": out,
        "path": str(output),
        "base": written.base,
        "rank": written.rank,
        "modules": [
            {"name": m.name, "inputs": m.inputs, "outputs": m.outputs, "error": m.error}
            for m in written.modules
        ],
    }
    if as_json:
        return print_json(result)
    table = Table("module", "inputs", "outputs", "error")
    for module in written.modules:
        table.add_row(module.name, str(module.inputs), str(module.outputs), f"{module.error:.2g}")
    show(f"{output}: rank {written.rank}, an adapter of {written.base or 'a base'}", table)
    return None


def written_result(source: str, written: Any) -> dict[str, Any]:
    """What `--json` says of a plain checkpoint."""
    return {
        "source": source,
        "path": str(written.path),
        "method": written.method,
        "turns": written.turns,
        "edits": written.edits,
        "files": list(written.files),
        "bytes": written.size,
    }


def written_line(written: Any) -> str:
    """The lines to print about a plain checkpoint."""
    from ultraedit.models.memory import readable

    return (
        f"{written.path}: {written.edits} edits in {written.turns} turns,"
        f" {readable(written.size)} in {len(written.files)} files"
    )
