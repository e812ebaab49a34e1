"""One push: write a version, load it, ask its edits, and go back if they do not hold."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ultraedit.editor import Editor
from ultraedit.errors import InputError, UltraEditError
from ultraedit.evaluation.matching import mentions
from ultraedit.export import checkpoint, gguf, lora
from ultraedit.export.source import origin
from ultraedit.history.contributions import contributions
from ultraedit.history.effect import edits_in_effect
from ultraedit.serving.engines import Engine, Form, Served, Version
from ultraedit.storage import EditRecord, open_journal, settle_if_free
from ultraedit.storage.atomic import named_failures, write_file
from ultraedit.storage.fingerprint import fingerprint_of
from ultraedit.storage.lock import hold
from ultraedit.storage.manifest import read_manifest

STATE = "pushed.json"
ASKED = 8
ANSWER_TOKENS = 24
KEPT_VERSIONS = 2


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        version: What the server has now; None for the base alone.
        previous: What it had before.
        asked: Edits that were asked.
        holding: How many of them hold.
        changed: Whether anything was sent: False where the server has this state already.
    """

    version: Version | None
    previous: Version | None
    asked: int = 0
    holding: int = 0
    changed: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def push(
    out: str | Path | Editor,
    engine: Engine,
    *,
    form: Form | None = None,
    folder: str | Path | None = None,
    rank: int | None = None,
    kind: str = "f16",
    base_as: str | None = None,
    asked: int = ASKED,
    least: float = 1.0,
) -> Pushed:
    """Make a server answer with the edits of a folder.

    The version before comes back if a call fails or too few edits hold. A folder whose edits were
    all taken back gives the server its base.

    Args:
        out: An edited model; an editor stands for the folder that it was saved to last.
        engine: Of the server.
        form: An adapter or whole weights; by default the engine's first.
        folder: Where versions are written, a fresh path for each; the server has to read it. By
            default `OUT.pushed/NAME`.
        rank: Of the adapter; by default the tolerance of `export` decides.
        kind: Type of the edited weights in a GGUF file.
        base_as: What the server calls the base, if neither its name nor its files say so.
        asked: Of how many learned edits the server is asked.
        least: Share of these that has to hold.

    Raises:
        InputError: `out` is no edited model or has turns that are not saved, the server has another
            base, or a form is not possible. Nothing was sent that changes the server.
        UltraEditError: a call failed or edits do not hold, and the server has the version before
            again, or the message says that it does not; another push is under way.
    """
    out = _folder(out)
    settle_if_free(out)
    form = form or engine.forms[0]
    if form not in engine.forms:
        raise InputError(f"{engine.kind} takes {' or '.join(engine.forms)}, not {form}")
    manifest = read_manifest(out)
    home = Path(folder) if folder is not None else out.with_name(f"{out.name}.pushed") / engine.name
    entry = _entry(out)
    records = edits_in_effect(out)
    base = origin(out, manifest).name or ""
    _check_base(engine, base, base_as)
    if engine.server.is_dry:
        version = Version(1, str((home / f"v{1:06}").resolve()), form, entry)
        engine.load(version, None)
        return Pushed(version, None)
    with named_failures(home):
        home.mkdir(parents=True, exist_ok=True)
    with hold(home / ".lock", home):
        state = _State.read(home)
        before = state.current
        if before is not None and before.form != form:
            raise InputError(
                f"{engine.name} was pushed as {before.form}; go on with that, or take another name"
            )
        if before is not None and before.entry == entry:
            return Pushed(before, before, changed=False)
        if not records:
            if before is not None:
                engine.unload(before, base)
                _write_state(home, replace(state, current=None))
            return Pushed(None, before, changed=before is not None)
        number = state.last + 1
        # Before anything is sent: a server may remember a path that failed.
        _write_state(home, replace(state, last=number))
        version = _written(out, engine, home, number, form, entry, rank, kind)
        try:
            holding, count = _loaded(engine, version, before, records, asked, least)
        except BaseException as error:
            _roll_back(engine, version, before, base, error)
            raise
        _write_state(home, _State(version.number, version))
        _tidy(home, version.number)
    return Pushed(version, before, count, holding)


def _folder(out: str | Path | Editor) -> Path:
    if not isinstance(out, Editor):
        return Path(out)
    saved = out.pending.latest
    if saved is None or not out.pending.is_saved(saved):
        raise InputError("the editor has turns that are not saved; save it first")
    return saved


@dataclass(frozen=True)
class _State:
    """What was pushed before.

    Attributes:
        last: The highest number of a version; no path comes twice.
        current: What the server has.
    """

    last: int = 0
    current: Version | None = None

    @staticmethod
    def read(home: Path) -> _State:
        try:
            content = json.loads((home / STATE).read_text(encoding="utf-8"))
            current = content["current"]
            return _State(content["last"], None if current is None else Version(**current))
        except FileNotFoundError:
            return _State()
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{home / STATE} is damaged: {error}") from error


def _write_state(home: Path, state: _State) -> None:
    text = json.dumps(asdict(state), indent=2) + "\n"
    write_file(home / STATE, lambda sink: sink.write(memoryview(text.encode())))


def _entry(out: Path) -> int:
    with open_journal(out) as journal:
        return journal.head().number


def _written(
    out: Path,
    engine: Engine,
    home: Path,
    number: int,
    form: Form,
    entry: int,
    rank: int | None,
    kind: str,
) -> Version:
    """Write a version under a path that was never used."""
    is_file = engine.kind == "llamacpp"
    path = home / f"v{number:06}{'.gguf' if is_file else ''}"
    if is_file:
        gguf.write(out, path, kind=kind)
    elif form == "weights":
        checkpoint.write(str(out), path)
    else:
        lora.write(out, path, rank=rank, shifts=contributions(out))
    return Version(number, str(path.resolve()), form, entry)


def _number(path: Path) -> int:
    name = path.name.removeprefix("v").removesuffix(".gguf")
    return int(name) if path.name.startswith("v") and name.isdecimal() else 0


def _loaded(
    engine: Engine,
    version: Version,
    before: Version | None,
    records: list[EditRecord],
    asked: int,
    least: float,
) -> tuple[int, int]:
    """Load a version and ask its newest learned edits; how many hold, and of how many.

    Raises:
        UltraEditError: a call failed, or fewer hold than have to.
    """
    engine.load(version, before)
    learned = [record for record in records if record.learned is not False]
    chosen = learned[-asked:] if asked else []
    holding = sum(_holds(engine, version, record) for record in chosen)
    if holding < least * len(chosen):
        raise UltraEditError(f"the server answers only {holding} of {len(chosen)} edits as written")
    return holding, len(chosen)


def _holds(engine: Engine, version: Version, record: EditRecord) -> bool:
    """Whether the server's greedy answer names the target."""
    model = engine.asked(version)
    body: dict[str, Any] = {
        "prompt": record.prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0.0,
        **({"model": model} if model else {}),
    }  # fmt: skip
    answer = engine.server.post("/v1/completions", body)
    try:
        text = str(answer["choices"][0]["text"])
    except (KeyError, IndexError, TypeError) as error:
        raise UltraEditError("the server's answer has no text") from error
    targets = (record.target,) if isinstance(record.target, str) else record.target
    return mentions(text, targets)


def _roll_back(
    engine: Engine,
    version: Version,
    before: Version | None,
    base: str,
    error: BaseException,
) -> None:
    """Bring back what the server had; `error` is raised again by the caller if that works.

    Raises:
        UltraEditError: it cannot be brought back.
    """
    try:
        if before is not None:
            engine.load(before, version)
        else:
            engine.unload(version, base)
    except UltraEditError as second:
        raise UltraEditError(
            f"{error}; and the version before could not be brought back: {second}"
        ) from error
    finally:
        with suppress(OSError):
            _discard(Path(version.path))


def _check_base(engine: Engine, base: str, base_as: str | None) -> None:
    """Whether the server has the model that was edited.

    Raises:
        InputError: it has others; they are named.
    """
    served = engine.bases()
    if engine.server.is_dry or engine.kind == "llamacpp":
        return
    wanted = {base_as} if base_as else {base, str(Path(base).resolve())}
    if any(wanted & set(one.names) for one in served):
        return
    if base_as is None and any(_same_files(base, one) for one in served):
        return
    names = ", ".join("/".join(one.names) for one in served) or "no model"
    raise InputError(
        f"the server at {engine.server.url} has {names}; the edits are of {base}"
        " (--base-as NAME says which of them that is)"
    )


def _same_files(base: str, served: Served) -> bool:
    """Whether a folder that both can read holds the base's weights."""
    if not Path(base).is_dir():
        return False
    for name in served.names:
        if Path(name).is_dir():
            with suppress(UltraEditError, OSError):
                return fingerprint_of(Path(name)) == fingerprint_of(Path(base))
    return False


def _tidy(home: Path, number: int) -> None:
    """Delete versions that no roll-back needs."""
    for path in home.iterdir():
        if 0 < _number(path) <= number - KEPT_VERSIONS:
            with suppress(OSError):
                _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        os.unlink(path)


def watch(
    out: str | Path,
    engine: Engine,
    *,
    on_push: Callable[[Pushed], None],
    on_failure: Callable[[UltraEditError], None],
    stop: Callable[[float], bool],
    seconds: float = 2.0,
    **options: Any,
) -> None:
    """Push every new entry of the journal, undos included, until `stop`.

    A state that was refused is not tried again before the journal goes on.

    Args:
        out: An edited model.
        engine: Of the server.
        on_push: Called after every push.
        on_failure: Called with what went wrong; the server has the version before then.
        stop: Waits so many seconds, and says whether to end.
        seconds: Between two looks at the journal.
        options: As in `push`.
    """
    refused: int | None = None
    while True:
        entry = _entry(Path(out))
        if entry != refused:
            try:
                pushed = push(out, engine, **options)
                refused = None
                if pushed.changed:
                    on_push(pushed)
            except UltraEditError as error:
                refused = entry
                on_failure(error)
        if stop(seconds):
            return
