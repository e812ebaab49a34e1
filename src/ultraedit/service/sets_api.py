"""Edit sets over HTTP: made, edited, asked, checked, taken back, taken along."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.background import BackgroundTask

from ultraedit.encoding.tokenise import Encoder
from ultraedit.errors import InputError
from ultraedit.evaluation.report import Scores
from ultraedit.history.answers import answers
from ultraedit.history.effect import edits_in_effect, in_effect
from ultraedit.records import Case, Edit, Probe
from ultraedit.service import exports
from ultraedit.service.errors import ApiError
from ultraedit.service.keys import Key, authorised
from ultraedit.service.overlay import Overlay
from ultraedit.service.promote import promote
from ultraedit.service.sampling import Sampling
from ultraedit.service.service import Service
from ultraedit.service.sets import ROOT
from ultraedit.service.suggestions import neighbours, rewordings
from ultraedit.service.turns import Guard, Job, undo
from ultraedit.storage import EditRecord, is_edited_model, open_journal

router = APIRouter(prefix="/v1")

MOST_ASKED = 16
# Edits that are asked to see whether they still hold.
HEALTH_EDITS = 50
# Until so many seconds have passed, `wait` waits; the job goes on all the same.
LONGEST_WAIT = 600.0
# Of the forms in which a set leaves.
MEDIA_TYPES = {
    "lora": "application/zip", "gguf-lora": "application/octet-stream",
    "edits": "application/x-ndjson",
}  # fmt: skip

Reader = Annotated[Key, Depends(authorised("reader"))]
Editing = Annotated[Key, Depends(authorised("editor"))]
Admin = Annotated[Key, Depends(authorised("admin"))]
Text = Annotated[str, StringConstraints(min_length=1, max_length=32_768)]


class Body(BaseModel):
    """The JSON of a request: other fields than its own are refused, and other types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewSet(Body):
    id: Annotated[str, StringConstraints(max_length=63)]
    extends: str | None = None


class EditBody(Body):
    prompt: Text
    target: Text | Annotated[list[Text], Field(min_length=1, max_length=16)]
    subject: Text | None = None
    id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None


class GuardBody(Body):
    probes: Annotated[list[Text], Field(min_length=1, max_length=64)]
    least: Annotated[float, Field(ge=0, le=1)] = 0.8


class Edits(Body):
    edits: Annotated[list[EditBody], Field(min_length=1)]
    wait: bool = True
    require_learned: bool = False
    guard: GuardBody | None = None


class Undo(Body):
    to: Annotated[int, Field(ge=0)] | None = None
    edit: str | None = None
    entry: Annotated[int, Field(ge=1)] | None = None


class Ask(Body):
    prompt: Text | None = None
    prompts: Annotated[list[Text], Field(min_length=1, max_length=MOST_ASKED)] | None = None
    chat: bool = False
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 32


class LocalityBody(Body):
    prompt: Text
    target: Text | None = None


class CaseBody(Body):
    prompt: Text
    target: Text
    rephrase: Annotated[list[Text], Field(max_length=16)] = []
    locality: Annotated[list[LocalityBody], Field(max_length=16)] = []


class Checks(Body):
    cases: Annotated[list[CaseBody], Field(min_length=1, max_length=256)]


class Suggest(Body):
    prompt: Text
    target: Text
    subject: Text | None = None


def service_of(request: Request) -> Service:
    """The server behind a request."""
    service: Service = request.app.state.service
    return service


Server = Annotated[Service, Depends(service_of)]


@router.get("/sets")
async def list_sets(service: Server, key: Reader) -> dict[str, Any]:
    """The sets that the key may use, who it is, and whether the model has a chat template."""
    names = [name for name in service.sets.names() if key.may("reader", name)]
    return {
        "object": "list",
        "data": [await _described(service, name, key) for name in names],
        "key": {"name": key.name, "role": key.role},
        "chat": bool(service.tokenizer.chat_template),
    }


@router.post("/sets", status_code=201)
async def create_set(body: NewSet, service: Server, key: Admin) -> dict[str, Any]:
    """A set without edits."""
    service.sets.create(body.id, body.extends)
    service.audit.write(key.name, body.id, "sets.create", {"extends": body.extends})
    return service.sets.describe(body.id)


@router.get("/sets/{set}")
async def get_set(set: str, service: Server, key: Reader) -> dict[str, Any]:
    """A set: how many edits it has, and what it takes."""
    return await _described(service, set, key)


@router.delete("/sets/{set}")
async def delete_set(set: str, service: Server, key: Admin) -> dict[str, Any]:
    """Delete a set with its history."""
    service.sets.get(set)
    await service.between_turns(set, key.name, lambda: service.turns.delete(set))
    service.audit.write(key.name, set, "sets.delete")
    return {"id": set, "object": "edit_set", "deleted": True}


@router.post("/sets/{set}/edits", responses={202: {"description": "It goes on."}})
async def write_edits(
    set: str,
    body: Edits,
    service: Server,
    key: Editing,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Write edits; they are on the disk when this answers, if it waits."""
    service.sets.get(set)
    if set == ROOT and not key.may("admin"):
        raise ApiError(403, f"only an admin edits {ROOT}: every set has its edits")
    if len(body.edits) > service.limits.edits:
        raise ApiError(400, f"at most {service.limits.edits} edits at once", param="edits")
    edits = tuple(_edit(service, place, one) for place, one in enumerate(body.edits))
    guard = None
    if body.guard is not None:
        guard = Guard(tuple(body.guard.probes), body.guard.least)
    job = await asyncio.to_thread(
        service.turns.submit,
        Job(set, key.name, edits, idempotency_key, body.require_learned, guard),
    )
    if body.wait:
        try:
            await asyncio.wait_for(job.wait(), LONGEST_WAIT)
        except TimeoutError:
            return JSONResponse(job.to_dict(), 202)
        if job.error is not None:
            return job.error.response(job=job.to_dict())
        return JSONResponse(job.to_dict())
    return JSONResponse(job.to_dict(), 202)


@router.get("/jobs/{job}")
async def get_job(job: str, service: Server, key: Reader) -> dict[str, Any]:
    """How far a job is."""
    found = service.turns.job(job)
    if not key.may("reader", found.set):
        raise ApiError(404, f"no job {job!r}")
    return found.to_dict()


@router.get("/sets/{set}/edits")
async def list_edits(
    set: str,
    service: Server,
    key: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    after: str | None = None,
    holding: bool = False,
) -> dict[str, Any]:
    """The edits in effect, newest first; `holding` asks the model whether it still says so."""
    out = service.sets.get(set).out
    found = await asyncio.to_thread(_edits, out)
    if after is not None:
        places = [place for place, one in enumerate(found) if one["id"] == after]
        if not places:
            raise ApiError(400, f"no edit {after!r} is in effect", param="after")
        found = found[places[0] + 1 :]
    page = found[:limit]
    if holding and page:
        known = await service.between_turns(set, key.name, lambda: _holding(service, set, page))
        page = [{**one, "holding": holds} for one, holds in zip(page, known, strict=True)]
    return {"object": "list", "data": page, "has_more": len(found) > limit}


@router.get("/sets/{set}/history")
async def history(
    set: str, service: Server, key: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Every change, newest first."""
    found = await asyncio.to_thread(_history, service.sets.get(set).out, limit)
    return {"object": "list", "data": found}


@router.post("/sets/{set}/undo")
async def undo_edits(set: str, body: Undo, service: Server, key: Editing) -> dict[str, Any]:
    """Go back to the state after an entry, or take one edit out."""
    service.sets.get(set)
    if (body.to is None) == (body.edit is None):
        raise ApiError(400, "undo takes either `to` or `edit`", param="to")
    await service.between_turns(
        set,
        key.name,
        lambda: undo(
            service.sets, service.audit, set, key.name, to=body.to, edit=body.edit, turn=body.entry
        ),
    )
    return await _described(service, set, key)


@router.post("/sets/{set}/ask")
async def ask(set: str, body: Ask, service: Server, key: Reader) -> dict[str, Any]:
    """What the base says, and what it says with the set."""
    prompts = body.prompts or ([body.prompt] if body.prompt else [])
    if not prompts or (body.prompt and body.prompts):
        raise ApiError(400, "give either `prompt` or `prompts`", param="prompt")
    base = await asyncio.to_thread(service.sets.overlay, ROOT)
    own = await asyncio.to_thread(service.sets.overlay, set)
    said = await asyncio.gather(*(
        _said(service, prompt, overlay, body) for overlay in (base, own) for prompt in prompts
    ))  # fmt: skip
    rows = zip(prompts, said[: len(prompts)], said[len(prompts) :], strict=True)
    return {
        "data": [
            {"prompt": prompt, "before": before, "after": after, "same": before == after}
            for prompt, before, after in rows
        ]
    }


@router.post("/sets/{set}/checks")
async def checks(set: str, body: Checks, service: Server, key: Editing) -> dict[str, Any]:
    """Scores of cases in the set as it is: token accuracy, and for locality agreement."""
    below = service.sets.get(set).described.extends or ROOT
    overlay = await asyncio.to_thread(service.sets.overlay, below)
    for one in body.cases:
        for asked in one.locality:
            if asked.target is None:
                # What it says now has to stay: locality is agreement, whatever is true.
                short = Ask(prompt=asked.prompt, max_tokens=8)
                asked.target = await _said(service, asked.prompt, overlay, short) or "."
    cases = [_case(place, one) for place, one in enumerate(body.cases)]

    def evaluate() -> dict[str, Any]:
        report = service.sets.editor(set).evaluate(cases, baseline=False)
        return {
            "scores": _scores(report.after),
            "cases": [
                {"prompt": one.prompt, "target": one.target, **_scores(one.after)}
                for one in report.cases
            ],
        }

    return await service.between_turns(set, key.name, evaluate)


@router.post("/sets/{set}/suggestions")
async def suggestions(set: str, body: Suggest, service: Server, key: Reader) -> dict[str, Any]:
    """Other wordings of a question, and questions nearby that must not change."""
    out = service.sets.get(set).out
    known = [one["prompt"] for one in await asyncio.to_thread(_edits, out)]
    return {
        "rewordings": rewordings(body.prompt, body.subject),
        "neighbours": neighbours(body.prompt, body.subject, known),
    }


@router.get("/sets/{set}/health")
async def health(set: str, service: Server, key: Reader) -> dict[str, Any]:
    """Whether the newest edits still hold, and how far other answers moved, turn by turn."""
    one = service.sets.get(set)
    found = (await asyncio.to_thread(_edits, one.out))[:HEALTH_EDITS]
    known: Sequence[bool] = ()
    if found:
        known = await service.between_turns(set, key.name, lambda: _holding(service, set, found))
    entries = await asyncio.to_thread(_history, one.out, 1000)
    counts = one.counts()
    return {
        "edits": counts["edits"],
        "learned": counts["learned"],
        "asked": len(found),
        "holding": sum(known),
        "drift": [
            {"entry": entry["entry"], "agreement": entry["agreement"]}
            for entry in reversed(entries)
            if entry["in_effect"] and entry["agreement"] is not None
        ],
    }


@router.post("/sets/{set}/promote")
async def promote_set(set: str, service: Server, key: Admin) -> dict[str, Any]:
    """Move a set's edits into the set that it extends: at the end of the chain, into the base's."""
    into = service.sets.get(set).described.extends
    if into is None:
        raise ApiError(400, f"{ROOT} is the end of the chain", param="set")
    await service.between_turns(
        set, key.name, lambda: promote(service.sets, service.audit, set, into, key.name)
    )
    return await asyncio.to_thread(service.sets.describe, into)


@router.get(
    "/sets/{set}/export",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
)
async def export(
    set: str,
    service: Server,
    key: Reader,
    format: Literal["lora", "gguf-lora", "edits"] = "lora",
) -> Response:
    """The set's own edits as a file: an adapter of the base, or the facts themselves."""
    out = service.sets.get(set).out
    if not is_edited_model(out):
        raise ApiError(409, f"{set} has no edits to export")
    if format == "edits":
        return Response(
            exports.facts(edits_in_effect(out)),
            media_type=MEDIA_TYPES[format],
            headers={"Content-Disposition": f'attachment; filename="{set}.jsonl"'},
        )

    def write() -> Path:
        return exports.adapter(out, format)

    path = await service.between_turns(set, key.name, write)
    name = f"{set}{path.suffix}"
    return FileResponse(
        path, media_type=MEDIA_TYPES[format], filename=name,
        background=BackgroundTask(exports.discard, path),
    )  # fmt: skip


async def _described(service: Service, name: str, key: Key) -> dict[str, Any]:
    """A set as a key may see it: not what it extends, where that is not for this key."""
    found = await asyncio.to_thread(service.sets.describe, name)
    below = found["extends"]
    return found if below is None or key.may("reader", below) else found | {"extends": None}


def _edit(service: Service, place: int, body: EditBody) -> Edit:
    if len(body.prompt) > service.limits.prompt_characters:
        most = service.limits.prompt_characters
        raise ApiError(
            400, f"a prompt has at most {most} characters", param=f"edits.{place}.prompt"
        )
    target = body.target if isinstance(body.target, str) else tuple(body.target)
    try:
        return Edit(body.prompt, target, body.subject, body.id or f"e-{secrets.token_hex(6)}")
    except InputError as error:
        raise ApiError(400, str(error), param=f"edits.{place}") from error


def _case(place: int, body: CaseBody) -> Case:
    try:
        probes = [Probe("rephrase", prompt, body.target) for prompt in body.rephrase]
        probes += [Probe("locality", one.prompt, one.target or ".") for one in body.locality]
        return Case(Edit(body.prompt, body.target, id=str(place)), tuple(probes))
    except InputError as error:
        raise ApiError(400, str(error), param=f"cases.{place}") from error


def _scores(found: Scores) -> dict[str, float | None]:
    """Token accuracy of edits and rephrases; of locality, agreement with what the set extends."""
    metrics = {"efficacy": "token_accuracy", "rephrase": "token_accuracy", "locality": "agreement"}
    return {kind: found.get(kind, {}).get(metric) for kind, metric in metrics.items()}


async def _said(service: Service, prompt: str, overlay: Overlay, body: Ask) -> str:
    encoder = Encoder(service.tokenizer, chat=body.chat)
    if body.chat and not service.tokenizer.chat_template:
        raise ApiError(400, "this model has no chat template", param="chat")
    ids = encoder.prompt_ids(prompt)
    made = service.batcher.submit(ids, overlay, Sampling(body.max_tokens, temperature=0.0))
    found = [token.id async for token in made]
    text: str = service.tokenizer.decode(found, skip_special_tokens=True)
    return text.strip()


def _edits(out: Path) -> list[dict[str, Any]]:
    """The edits in effect, newest first."""
    if not is_edited_model(out):
        return []
    found = []
    with open_journal(out) as journal:
        effect = in_effect(journal.outline(), journal.head().number)
        for number in reversed(effect.turns):
            entry = journal.entry(number)
            jobs = (entry.note or {}).get("jobs", ())
            authors = [job["author"] for job in jobs for _ in range(job["edits"])]
            for place in reversed(range(len(entry.records))):
                record = entry.records[place]
                if (number, place) not in effect.removed:
                    found.append({
                        "id": record.id,
                        "prompt": record.prompt,
                        "target": _target(record.target),
                        "subject": record.subject,
                        "entry": number,
                        "time": entry.time,
                        "author": authors[place] if place < len(authors) else entry.author,
                        "learned": record.learned,
                        "holding": None,
                    })  # fmt: skip
    return found


def _history(out: Path, limit: int) -> list[dict[str, Any]]:
    if not is_edited_model(out):
        return []
    found = []
    with open_journal(out) as journal:
        last = journal.head().number
        effect = in_effect(journal.outline(), last)
        first = max(1, last - limit + 1)
        for entry in journal.entries(first, last):
            note = entry.note or {}
            found.append({
                "entry": entry.number,
                "kind": entry.kind,
                "time": entry.time,
                "author": entry.author,
                "edits": len(entry.records),
                "records": [
                    {
                        "id": one.id, "prompt": one.prompt, "target": _target(one.target),
                        "learned": one.learned,
                        "in_effect": entry.number in effect.turns
                        and (entry.number, place) not in effect.removed,
                    }
                    for place, one in enumerate(entry.records)
                ],
                "learned": sum(one.learned is True for one in entry.records),
                "seconds": entry.seconds,
                "of": entry.of,
                "in_effect": entry.number in effect.entries,
                "agreement": note.get("agreement"),
            })  # fmt: skip
    return found[::-1]


def _target(target: str | Sequence[str]) -> str | list[str]:
    return target if isinstance(target, str) else list(target)


def _holding(service: Service, name: str, edits: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether every target token of these edits is still the likeliest; for the edit thread."""
    editor = service.sets.editor(name)
    records = [
        EditRecord(
            one["id"], one["prompt"],
            one["target"] if isinstance(one["target"], str) else tuple(one["target"]),
        )
        for one in edits
    ]  # fmt: skip
    return [answer.learned for answer in answers(editor.workbench, records)]
