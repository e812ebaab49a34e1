"""One push: write a version, load it, ask its edits, and go back if they do not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ultraedit.editor import Editor
from ultraedit.errors import InputError, UltraEditError
from ultraedit.evaluation.matching import mentions
from ultraedit.export.source import origin
from ultraedit.history.effect import edits_in_effect
from ultraedit.serving.engines import Engine, Form, Version
from ultraedit.serving.versions import Versions, discard, write
from ultraedit.storage import EditRecord, open_journal, settle_if_free
from ultraedit.storage.atomic import named_failures
from ultraedit.storage.fingerprint import fingerprint_of
from ultraedit.storage.lock import hold
from ultraedit.storage.manifest import read_manifest

ASKED = 8
ANSWER_TOKENS = 24
# Seconds from one look at the journal to the next, and at most after calls that failed.
LOOK, LONGEST_WAIT = 2.0, 60.0


class NotHeldError(UltraEditError):
    """The server answers edits in another way than they were written."""


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
        form: An adapter, whole weights, or a GGUF file; by default the engine's first.
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
    in_chat = manifest.settings.get("chat") == "only"
    base = origin(out, manifest).name or ""
    _check_base(engine, base, base_as)
    if engine.server.is_dry:
        version = Versions(home).next(form, entry)
        engine.load(version, None)
        return Pushed(version, None)
    with named_failures(home):
        home.mkdir(parents=True, exist_ok=True)
    with hold(home / ".lock", home):
        versions = Versions.read(home)
        before = versions.current
        if before is not None and before.form != form:
            raise InputError(
                f"{engine.name} was pushed as {before.form}; go on with that, or take another name"
            )
        if before is not None and before.entry == entry:
            return Pushed(before, before, changed=False)
        if not records:
            if before is not None:
                engine.unload(before, base)
                versions.with_current(None).save()
            return Pushed(None, before, changed=before is not None)
        version = versions.next(form, entry)
        # Before anything is sent: a server may remember a path that failed.
        versions = versions.counted(version)
        versions.save()
        write(out, version, rank=rank, kind=kind)
        try:
            holding, count = _loaded(
                engine, version, before, records, asked, least, in_chat=in_chat
            )
        except BaseException as error:
            _roll_back(engine, version, before, base, error)
            raise
        versions.with_current(version).save()
    return Pushed(version, before, count, holding)


def _folder(out: str | Path | Editor) -> Path:
    if not isinstance(out, Editor):
        return Path(out)
    saved = out.pending.latest
    if saved is None or not out.pending.is_saved(saved):
        raise InputError("the editor has turns that are not saved; save it first")
    return saved


def _entry(out: Path) -> int:
    with open_journal(out) as journal:
        return journal.head().number


def _loaded(
    engine: Engine,
    version: Version,
    before: Version | None,
    records: list[EditRecord],
    asked: int,
    least: float,
    *,
    in_chat: bool,
) -> tuple[int, int]:
    """Load a version and ask its newest learned edits; how many hold, and of how many.

    Raises:
        NotHeldError: fewer hold than have to.
        UltraEditError: a call failed.
    """
    engine.load(version, before)
    learned = [record for record in records if record.learned is not False]
    chosen = learned[-asked:] if asked else []
    holding = sum(_holds(engine, version, record, in_chat) for record in chosen)
    if holding < least * len(chosen):
        raise NotHeldError(f"the server answers only {holding} of {len(chosen)} edits as written")
    return holding, len(chosen)


def _holds(engine: Engine, version: Version, record: EditRecord, in_chat: bool) -> bool:
    """Whether the server's greedy answer, plain or in the chat template, names the target."""
    model = engine.asked(version)
    body: dict[str, Any] = {
        "max_tokens": ANSWER_TOKENS, "temperature": 0.0, **({"model": model} if model else {})
    }  # fmt: skip
    if in_chat:
        body["messages"] = [{"role": "user", "content": record.prompt}]
        answer = engine.server.post("/v1/chat/completions", body)
    else:
        answer = engine.server.post("/v1/completions", body | {"prompt": record.prompt})
    try:
        choice = answer["choices"][0]
        text = str(choice["message"]["content"] if in_chat else choice["text"])
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
        discard(Path(version.path))


def _check_base(engine: Engine, base: str, base_as: str | None) -> None:
    """Whether the server has the model that was edited.

    Raises:
        InputError: it has others; they are named.
    """
    served = engine.bases()
    if served is None:
        return
    wanted = {base_as} if base_as else {base, str(Path(base).resolve())}
    if any(wanted & set(names) for names in served):
        return
    if base_as is None and any(_same_files(base, names) for names in served):
        return
    shown = ", ".join(" at ".join(names) for names in served) or "no model"
    raise InputError(
        f"the server at {engine.server.url} has {shown}; the edits are of {base}"
        " (--base-as NAME says which of them that is)"
    )


def _same_files(base: str, names: Iterable[str]) -> bool:
    """Whether a folder that both can read holds the base's weights."""
    if not Path(base).is_dir():
        return False
    for name in names:
        if Path(name).is_dir():
            with suppress(UltraEditError, OSError):
                return fingerprint_of(Path(name)) == fingerprint_of(Path(base))
    return False


def watch(
    out: str | Path,
    engine: Engine,
    *,
    on_push: Callable[[Pushed], None],
    on_failure: Callable[[UltraEditError], None],
    stop: Callable[[float], bool],
    **options: Any,
) -> None:
    """Push every new entry of the journal, undos included, until `stop`.

    Where a call failed, the same entry is tried again with growing waits. What the server answered
    wrongly, or what cannot be pushed at all, is not tried again before there is a new entry.

    Args:
        out: An edited model.
        engine: Of the server.
        on_push: Called after every push.
        on_failure: Called with what went wrong; the server has the version before then.
        stop: Waits so many seconds, and says whether to end.
        options: As in `push`.
    """
    done: int | None = None
    wait = LOOK
    while True:
        entry = _entry(Path(out))
        if entry != done:
            try:
                pushed = push(out, engine, **options)
            except UltraEditError as error:
                on_failure(error)
                if isinstance(error, (InputError, NotHeldError)):
                    done, wait = entry, LOOK
                else:
                    wait = min(2 * wait, LONGEST_WAIT)
            else:
                done, wait = entry, LOOK
                if pushed.changed:
                    on_push(pushed)
        if stop(wait):
            return
