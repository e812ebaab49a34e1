"""`ultraedit export`: an edited model in a form that needs nothing of this package."""

from __future__ import annotations

from collections.abc import Mapping
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
            " `ultraedit apply`. lora: a PEFT adapter. gguf: the base's GGUF file with the edited"
            " weights. gguf-lora: an adapter of llama.cpp. ollama: a folder for `ollama create`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A folder that is not there yet or is empty; for a delta or GGUF, a new file.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--type", help="Of edited weights in GGUF: f16, f32, bf16, q8_0, or same as the base's."
        ),
    ] = "f16",
    base: Annotated[
        Path | None, typer.Option(help="The base's GGUF file, if it is not where it was.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the LoRA; by default the tolerance decides.")
    ] = None,
    keep_edits: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Take the smallest rank with which this share of the learned edits holds.",
        ),
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
    """Write an edited model in a form that other programs open."""
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
    choice = {"rank": rank, "tolerance": tolerance, "keep_edits": keep_edits}
    chosen = any(value is not None for value in choice.values())
    if chosen and form not in ("lora", "gguf-lora", "ollama"):
        raise InputError("--rank, --tolerance and --keep-edits belong to adapters")
    if (kind != "f16" or base is not None) and form not in ("gguf", "ollama"):
        raise InputError("--type and --base belong to --format gguf and ollama")
    if form in ("lora", "gguf-lora"):
        _adapter(out, output, form, choice, as_json)
    elif form == "delta":
        _delta(out, output, as_json)
    elif form == "gguf":
        _gguf(out, output, kind, base, as_json)
    elif form == "ollama":
        _ollama(out, output, kind, base, choice if chosen else None, as_json)
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


def _adapter(out: str, output: Path, form: Any, choice: Mapping[str, Any], as_json: bool) -> None:
    from rich.table import Table

    from ultraedit.cli.console import print_json, show

    written, held = _written_adapter(out, output, form, choice)
    result: dict[str, Any] = {
        "format": form,
        "source": out,
        "path": str(output),
        "base": written.base,
        "rank": written.rank,
        "modules": [
            {"name": m.name, "inputs": m.inputs, "outputs": m.outputs, "error": m.error}
            for m in written.modules
        ],
        "held": held,
    }
    if as_json:
        return print_json(result)
    table = Table("module", "inputs", "outputs", "error")
    for module in written.modules:
        table.add_row(module.name, str(module.inputs), str(module.outputs), f"{module.error:.2g}")
    show(f"{output}: rank {written.rank}, an adapter of {written.base or 'a base'}", table)
    if held is not None:
        show(_held_line(held))
    return None


def _written_adapter(out: str, output: Path, form: Any, choice: Mapping[str, Any]) -> Any:
    """The adapter, and the edits that were asked if that chose its rank."""
    from ultraedit.export import lora
    from ultraedit.export.held import HeldEdits
    from ultraedit.history.contributions import contributions

    share = choice["keep_edits"]
    edits = None if share is None else HeldEdits(Path(out))
    keeps = None if edits is None else edits.keeps(share)
    written = lora.write(
        out, output, rank=choice["rank"], tolerance=choice["tolerance"],
        keeps=keeps, shifts=contributions(Path(out)), form=form,
    )  # fmt: skip
    return written, edits and edits.to_dict()


def _gguf(out: str, output: Path, kind: str, base: Path | None, as_json: bool) -> None:
    from ultraedit.cli.console import print_json, show
    from ultraedit.export import gguf

    written = gguf.write(out, output, kind=kind, base=base)
    result = _gguf_result(out, written)
    if as_json:
        return print_json({"format": "gguf", "source": out, **result})
    kinds = sorted({f"{before} to {after}" for before, after in written.kinds.values()})
    show(
        f"{output}: {len(written.kinds)} weights replaced ({', '.join(kinds)}); every other"
        f" tensor and key is that of {written.base}, byte for byte",
        _held_line(result["held"]),
    )
    return None


def _gguf_result(out: str, written: Any) -> dict[str, Any]:
    """What `--json` says of a GGUF file; the edits are asked with its weights."""
    from ultraedit.export.held import HeldEdits

    edits = HeldEdits(Path(out))
    edits.try_weights(written.weights())
    return {
        "path": str(written.path),
        "base": str(written.base),
        "tensors": {name: {"base": a, "edited": b} for name, (a, b) in written.kinds.items()},
        "others_identical": True,
        "held": edits.to_dict(),
        "bytes": written.path.stat().st_size,
    }


def _ollama(
    out: str,
    output: Path,
    kind: str,
    base: Path | None,
    choice: Mapping[str, Any] | None,
    as_json: bool,
) -> None:
    from ultraedit.cli.console import print_json, show
    from ultraedit.export import gguf
    from ultraedit.export.staging import new_folder
    from ultraedit.storage.config_files import write_text

    with new_folder(output, outside=Path(out)) as staged:
        if choice is None:
            written = gguf.write(out, staged / "model.gguf", kind=kind, base=base)
            result = _gguf_result(out, written)
            modelfile = "FROM ./model.gguf\n"
        else:
            file = gguf.base_of(Path(out), base)
            adapter, held = _written_adapter(out, staged / "adapter.gguf", "gguf-lora", choice)
            result = {"base": str(file), "rank": adapter.rank, "held": held}
            modelfile = f"FROM {file}\nADAPTER ./adapter.gguf\n"
        write_text(staged / "Modelfile", modelfile)
    result |= {"path": str(output), "modelfile": modelfile}
    if as_json:
        return print_json({"format": "ollama", "source": out, **result})
    show(f"{output}: ollama create NAME -f {output / 'Modelfile'}")
    if result["held"] is not None:
        show(_held_line(result["held"]))
    return None


def _held_line(held: Mapping[str, int]) -> str:
    sample = "" if held["asked"] == held["learned"] else f" ({held['asked']} were asked)"
    return f"{held['holding']} of {held['learned']} learned edits hold with these weights{sample}"


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
