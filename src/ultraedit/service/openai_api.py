"""The endpoints of OpenAI's API: models, completions, chat completions."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from jinja2 import TemplateError
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from transformers import PreTrainedTokenizerBase

from ultraedit.service.batcher import Generation
from ultraedit.service.errors import ApiError, as_api_error
from ultraedit.service.keys import Key, authorised
from ultraedit.service.openai_schemas import (
    Asked,
    ChatAsked,
    ChatForm,
    CompletionAsked,
    CompletionForm,
    Form,
)
from ultraedit.service.overlay import Overlay
from ultraedit.service.sampling import Sampling, Token
from ultraedit.service.service import Service
from ultraedit.service.text_stream import Decode, Echo, Piece, Spelling, TextStream

log = logging.getLogger(__name__)
T = TypeVar("T")

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Reader = Annotated[Key, Depends(authorised("reader"))]

DEFAULT_TOKENS = 16
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
# Nobody reads this answer: its client has gone.
CLIENT_GONE = 499


@router.get("/models")
async def models(request: Request, key: Reader) -> dict[str, Any]:
    """The models that a key may use."""
    return {"object": "list", "data": _listed(request.app.state.service, key)}


@router.get("/models/{model:path}")
async def model(request: Request, key: Reader, model: str) -> dict[str, Any]:
    """One model."""
    for one in _listed(request.app.state.service, key):
        if one["id"] == model:
            return one
    message = f"The model `{model}` does not exist"
    raise ApiError(404, message, param="model", code="model_not_found")


@router.post("/completions", responses=STREAM)
async def completions(request: Request, key: Reader, asked: CompletionAsked) -> Response:
    """Text that goes on from prompts."""
    asked.check()
    service: Service = request.app.state.service
    overlay = await asyncio.to_thread(service.overlay, asked.model, key)
    prompts = _prompts(service, asked)
    wanted = [prompt for prompt in prompts for _ in range(asked.n or 1)]
    is_scored = asked.logprobs is not None
    generations = _begin(
        service, overlay, asked, [ids for _, ids in wanted],
        DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens,
        top=asked.logprobs or 0, score_prompt=bool(asked.echo) and is_scored,
    )  # fmt: skip
    decode = _decode(service.tokenizer)
    answers = [
        Answer(
            generation, TextStream(decode, asked.stop or (), ids),
            Echo(text, ids, decode, service.tokenizer.eos_token_id) if asked.echo else None,
        )
        for generation, (text, ids) in zip(generations, wanted, strict=True)
    ]  # fmt: skip
    form = CompletionForm(
        asked.model, overlay.version, Spelling(service.tokenizer) if is_scored else None
    )
    return await _respond(request, asked, answers, form, sum(len(ids) for _, ids in prompts))


@router.post("/chat/completions", responses=STREAM)
async def chat_completions(request: Request, key: Reader, asked: ChatAsked) -> Response:
    """The answer to a chat."""
    asked.check()
    service: Service = request.app.state.service
    overlay = await asyncio.to_thread(service.overlay, asked.model, key)
    ids = _chat_ids(service, asked)
    room = max(service.batcher.context_length - len(ids), 1)
    generations = _begin(
        service, overlay, asked, [ids] * (asked.n or 1),
        asked.max_completion_tokens or asked.max_tokens or room, top=asked.top_logprobs or 0,
    )  # fmt: skip
    decode = _decode(service.tokenizer)
    answers = [Answer(one, TextStream(decode, asked.stop or ())) for one in generations]
    form = ChatForm(
        asked.model, overlay.version, Spelling(service.tokenizer) if asked.logprobs else None
    )
    return await _respond(request, asked, answers, form, len(ids))


def _listed(service: Service, key: Key) -> list[dict[str, Any]]:
    base = service.base.name
    return [
        {
            "id": name, "object": "model", "created": service.created, "owned_by": "ultraedit",
            "parent": None if name == base else base,
        }
        for name in service.models(key)
    ]  # fmt: skip


def _prompts(service: Service, asked: CompletionAsked) -> list[tuple[str | None, list[int]]]:
    """The prompts' texts, where they came as such, and token ids.

    Raises:
        ApiError: 400, there are too many, one is too long, or has an id that is no token's.
    """
    most = service.limits.batch_prompts
    if len(asked.prompt) > most:
        raise ApiError(400, f"a request has at most {most} prompts", param="prompt")
    vocabulary = len(service.tokenizer)
    found: list[tuple[str | None, list[int]]] = []
    for prompt in asked.prompt:
        if isinstance(prompt, str):
            _check_length(service, prompt, "prompt")
            found.append((prompt, list(service.tokenizer(prompt)["input_ids"])))
        elif max(prompt) >= vocabulary:
            message = f"{max(prompt)} is no token; the vocabulary has {vocabulary}"
            raise ApiError(400, message, param="prompt")
        else:
            found.append((None, prompt))
    return found


def _chat_ids(service: Service, asked: ChatAsked) -> list[int]:
    """A chat in the model's template.

    Raises:
        ApiError: 400, there is no template, it refuses the chat, or the chat is too long.
    """
    if not service.tokenizer.chat_template:
        message = f"The model `{asked.model}` has no chat template; use /v1/completions"
        raise ApiError(400, message, param="messages")
    _check_length(service, "".join(one.content for one in asked.messages), "messages")
    try:
        text = service.tokenizer.apply_chat_template(
            [one.for_template() for one in asked.messages],
            tokenize=False, add_generation_prompt=True,
        )  # fmt: skip
    except TemplateError as error:
        message = f"the chat template refuses these messages: {error}"
        raise ApiError(400, message, param="messages") from error
    # The template writes its own special tokens.
    return list(service.tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_length(service: Service, text: str, param: str) -> None:
    most = service.limits.prompt_characters
    if len(text) > most:
        message = f"a prompt has at most {most} characters; this one has {len(text)}"
        raise ApiError(400, message, param=param)


def _begin(
    service: Service,
    overlay: Overlay,
    asked: Asked,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    top: int,
    score_prompt: bool = False,
) -> list[Generation]:
    """One generation for every prompt; the choices of one prompt stand together.

    Raises:
        ApiError: one was refused, and none runs.
    """
    begun: list[Generation] = []
    try:
        for place, ids in enumerate(prompts):
            sampling = Sampling(
                max_tokens,
                1.0 if asked.temperature is None else asked.temperature,
                1.0 if asked.top_p is None else asked.top_p,
                # One seed would make all choices the same.
                None if asked.seed is None else (asked.seed + place % (asked.n or 1)) % 2**63,
            )
            begun.append(
                service.batcher.submit(ids, overlay, sampling, top=top, score_prompt=score_prompt)
            )
    except ApiError:
        _cancel(begun)
        raise
    return begun


def _cancel(generations: Sequence[Generation]) -> None:
    for one in generations:
        one.cancel()


def _decode(tokenizer: PreTrainedTokenizerBase) -> Decode:
    def decode(ids: Sequence[int]) -> str:
        # Cleaning up would change text that has been sent.
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    return decode


class Answer:
    """One choice of a response.

    Args:
        generation: Where its tokens come from.
        text: What turns them into text.
        echo: What stands in front.

    Attributes:
        made: Tokens that came so far.
    """

    def __init__(self, generation: Generation, text: TextStream, echo: Echo | None = None) -> None:
        self.generation, self.made = generation, 0
        self._text, self._echo = text, echo

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Its text as it comes; the last piece is empty and says why it ends."""
        text, before = self._text, 0
        waiting: list[tuple[Token, int]] = []

        def begun() -> list[tuple[Token, int]]:
            """The tokens whose text begins in what was sent."""
            ready = [one for one in waiting if one[1] < before + text.sent]
            del waiting[: len(ready)]
            return ready

        token = await anext(self.generation, None)
        if self._echo is not None:
            # The prompt has been read by now.
            prompt = self._echo.piece(self.generation.prompt_tokens)
            before = len(prompt.text)
            yield prompt
        while token is not None:
            self.made += 1
            waiting.append((token, before + text.decoded))
            if new := text.feed(token.id):
                yield Piece(new, begun())
            if text.stopped:
                break
            token = await anext(self.generation, None)
        if rest := text.finish():
            yield Piece(rest, begun())
        if text.stopped:
            self.generation.cancel()
            yield Piece("", finish="stop")
            return
        finish = self.generation.finish
        if finish == "stop" and self._echo is not None and self._echo.end is not None:
            # Clients that score a prompt leave out the last token, taking it for one that was
            # made. How likely this one was is not known.
            waiting.append((Token(self._echo.end, math.nan), before + text.sent))
        yield Piece("", waiting, finish)


async def _merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of all answers as they come, with the answers' numbers."""
    queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

    async def pump(index: int, answer: Answer) -> None:
        try:
            async for piece in answer.pieces():
                queue.put_nowait((index, piece))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(*one)) for one in enumerate(answers)]
    left = len(tasks)
    try:
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            yield index, piece
            left -= piece.finish is not None
    finally:
        for task in tasks:
            task.cancel()


async def _collected(answers: Sequence[Answer]) -> list[Piece]:
    found: list[list[Piece]] = [[] for _ in answers]
    async with aclosing(_merged(answers)) as pieces:
        async for index, piece in pieces:
            found[index].append(piece)
    return [Piece.joined(one) for one in found]


async def _respond(
    request: Request, asked: Asked, answers: Sequence[Answer], form: Form, prompt_tokens: int
) -> Response:
    """Answer in one body, or as a stream of events.

    Args:
        prompt_tokens: How many tokens the prompts have.
    """

    def usage() -> dict[str, int]:
        made = sum(answer.made for answer in answers)
        return {
            "prompt_tokens": prompt_tokens, "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
        }  # fmt: skip

    async def events() -> AsyncGenerator[str, None]:
        also = {"usage": None} if asked.has_usage else {}
        for index in range(len(answers)):
            if (opening := form.opening(index)) is not None:
                yield _event(form.chunk(opening, **also))
        try:
            async with aclosing(_merged(answers)) as pieces:
                async for index, piece in pieces:
                    yield _event(form.chunk(form.delta(index, piece), **also))
        except Exception as error:
            told = as_api_error(error)
            if told is not error:
                log.error("a stream failed", exc_info=error)
            yield _event({"error": told.to_dict()})
            return
        if asked.has_usage:
            yield _event(form.chunk(usage=usage()))
        yield "data: [DONE]\n\n"

    generations = [answer.generation for answer in answers]
    if asked.stream:
        return EventStream(events(), generations)
    try:
        found = await _unless_gone(request, _collected(answers))
    finally:
        _cancel(generations)
    if found is None:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(form.body(found, usage()))


def _event(content: dict[str, Any]) -> str:
    # ASCII: some clients take further characters of Unicode for ends of lines.
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events; however it ends, the generations behind it do."""

    def __init__(
        self, events: AsyncGenerator[str, None], generations: Sequence[Generation]
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events, self._generations = events, generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _cancel(self._generations)
            await self._events.aclose()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None if the client went before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, watch = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((doing, watch), return_when=asyncio.FIRST_COMPLETED)
        return await doing if doing.done() else None
    finally:
        doing.cancel()
        watch.cancel()
