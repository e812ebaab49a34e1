"""What the OpenAI endpoints are asked, which of OpenAI's parameters they refuse, what they say."""

from __future__ import annotations

import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ultraedit.service.errors import ApiError
from ultraedit.service.sampling import Token
from ultraedit.service.text_stream import Piece, Spelling

MOST_CHOICES = 8
MOST_STOPS = 4
STOP_CHARACTERS = 1000
# What OpenAI writes for a token that is all but impossible; JSON has no infinity.
IMPOSSIBLE = -9999.0

# Parameters that are not supported, with the values beside null that ask for nothing.
_PENALTIES: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
}  # fmt: skip
_TOOLS: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False),
    "functions": ([],), "function_call": ("none", "auto"), "web_search_options": (),
}  # fmt: skip


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("text", "half a surrogate pair is no text") from error
    return text


def _as_stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_prompts(value: Any) -> Any:
    """One prompt or several, as several."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(one, str) for one in value):
            return value
        if _are_ids(value):
            return [value]
        if all(isinstance(one, list) and one and _are_ids(one) for one in value):
            return value
    raise PydanticCustomError(
        "prompt",
        "a prompt is a text, a list of texts, a list of token ids, or a list of such lists",
    )


def _are_ids(value: list[Any]) -> bool:
    return all(type(one) is int and one >= 0 for one in value)


def _as_text(value: Any) -> Any:
    """A message's content, whose parts are put on lines of their own."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise PydanticCustomError("content", "only parts of the type text are supported")
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("content", "a part has no text")
    return "\n".join(part["text"] for part in value)


Text = Annotated[str, AfterValidator(_encodable)]
Stop = Annotated[Text, Field(min_length=1, max_length=STOP_CHARACTERS)]
Stops = Annotated[
    list[Stop],
    Field(max_length=MOST_STOPS),
    BeforeValidator(_as_stops, json_schema_input_type=str | list[str]),
]
Prompts = Annotated[
    list[Text] | list[list[int]],
    BeforeValidator(
        _as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
    ),
]


class TextPart(BaseModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_as_text, json_schema_input_type=str | list[TextPart])]
    name: str | None = None

    def for_template(self) -> dict[str, str]:
        """As chat templates read it."""
        return {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content,
        }


class StreamOptions(BaseModel):
    """Of a streamed answer. Obfuscation is taken and not done."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Asked(BaseModel):
    """What both endpoints take; null stands for the default everywhere."""

    model_config = ConfigDict(strict=True, extra="allow")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def has_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what pydantic lets pass.

        Raises:
            ApiError: 400, a parameter is unknown or unsupported, or two do not go together.
        """
        extra = self.model_extra or {}
        if unknown := [name for name in extra if name not in self.neutral]:
            plural = "s" if len(unknown) > 1 else ""
            message = f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}"
            raise ApiError(400, message, param=unknown[0])
        for name, value in extra.items():
            if value is not None and value not in self.neutral[name]:
                raise _unsupported(name)
        if self.stream_options is not None and not self.stream:
            message = "stream_options is only allowed together with stream"
            raise ApiError(400, message, param="stream_options")


class CompletionAsked(Asked):
    """POST /v1/completions."""

    neutral = {**_PENALTIES, "best_of": (1,), "suffix": ("",)}

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)


class ChatAsked(Asked):
    """POST /v1/chat/completions."""

    neutral = {
        **_PENALTIES, **_TOOLS, "response_format": ({"type": "text"},), "modalities": (["text"],),
        "audio": (), "prediction": (), "reasoning_effort": ("none",), "verbosity": ("medium",),
        "store": (False,), "metadata": ({},), "service_tier": ("auto", "default"),
        "moderation": (),
    }  # fmt: skip

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    # Without effect, as `user`.
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        for place, message in enumerate(self.messages):
            for name, value in (message.model_extra or {}).items():
                if value is not None and value != []:
                    raise _unsupported(f"messages.{place}.{name}")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            message_ = "max_tokens and max_completion_tokens cannot be set at the same time"
            raise ApiError(400, message_, param="max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            message_ = "top_logprobs is only allowed together with logprobs"
            raise ApiError(400, message_, param="top_logprobs")


def _unsupported(name: str) -> ApiError:
    return ApiError(
        400, f"{name} is not supported by this server", param=name, code="unsupported_parameter"
    )


class Form(ABC):
    """How an endpoint writes its answers.

    Args:
        model: As the client named it.
        version: Of the edits that answer.
        spelling: Of the tokens, where their probabilities are wanted.
    """

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, version: str, spelling: Spelling | None) -> None:
        self._spelling = spelling
        self._head = {
            "created": int(time.time()), "model": model, "system_fingerprint": version
        }  # fmt: skip
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"

    def body(self, choices: Sequence[Piece], usage: Mapping[str, int]) -> dict[str, Any]:
        """Whole answers."""
        written = [self.choice(index, piece) for index, piece in enumerate(choices)]
        return {"id": self._id, "object": self.kind, **self._head, "choices": written,
                "usage": usage}  # fmt: skip

    def chunk(self, *choices: dict[str, Any], **also: Any) -> dict[str, Any]:
        """One event of a stream."""
        return {"id": self._id, "object": self.chunk_kind, **self._head, "choices": choices,
                **also}  # fmt: skip

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice begins with in a stream, before its first piece."""
        return None

    @abstractmethod
    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """A choice of whole answers."""

    @abstractmethod
    def delta(self, index: int, piece: Piece) -> dict[str, Any]:
        """A choice of a stream's event."""


class CompletionForm(Form):
    """Of /v1/completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return {
            "index": index, "text": piece.text, "logprobs": self._logprobs(piece.tokens),
            "finish_reason": piece.finish,
        }  # fmt: skip

    delta = choice

    def _logprobs(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any] | None:
        if self._spelling is None:
            return None
        return {
            "tokens": [self._spelling.text(token.id) for token, _ in tokens],
            "token_logprobs": [_number(token.logprob) for token, _ in tokens],
            "top_logprobs": [self._top(token, self._spelling) for token, _ in tokens],
            "text_offset": [offset for _, offset in tokens],
        }

    @staticmethod
    def _top(token: Token, spelling: Spelling) -> dict[str, float | None] | None:
        """The likeliest tokens and the one itself; None where nothing was predicted."""
        if math.isnan(token.logprob):
            return None
        found: dict[str, float | None] = {}
        for other, value in (*token.top, (token.id, token.logprob)):
            # Of several that read the same, the likeliest.
            found.setdefault(spelling.text(other), _number(value))
        return found


class ChatForm(Form):
    """Of /v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {
            "index": index, "message": message, "logprobs": self._logprobs(piece),
            "finish_reason": piece.finish,
        }  # fmt: skip

    def delta(self, index: int, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {
            "index": index, "delta": delta, "logprobs": self._logprobs(piece),
            "finish_reason": piece.finish,
        }  # fmt: skip

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self._spelling is None:
            return None
        content = [
            self._entry(token.id, token.logprob)
            | {"top_logprobs": [self._entry(*one) for one in token.top]}
            for token, _ in piece.tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        assert self._spelling is not None
        return {
            "token": self._spelling.text(token), "logprob": _number(logprob),
            "bytes": self._spelling.bytes(token),
        }  # fmt: skip


def _number(logprob: float) -> float | None:
    return None if math.isnan(logprob) else max(logprob, IMPOSSIBLE)
