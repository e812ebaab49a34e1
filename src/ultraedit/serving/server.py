"""HTTP calls to a server that speaks OpenAI's API and an engine's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ultraedit.errors import InputError, UltraEditError

TIMEOUT = 120.0
RETRIES = 3


class Server:
    """An engine's server. Refused and unanswered calls are tried again with growing waits.

    Args:
        url: Where it listens, without `/v1`.
        key: Its bearer key, if it asks for one. It is in no message.
        timeout: Seconds for one call.
        retries: Further tries.
        tell: Called with a line instead of every call; nothing is sent then.

    Raises:
        InputError: the URL is none, or package openai is missing.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is no URL of a server")
        if parts.username or parts.password:
            raise InputError("a key belongs into an environment variable, not into the URL")
        try:
            from openai import OpenAI
        except ImportError as error:
            raise InputError(
                "pushing needs package openai: pip install 'ultraedit[serving]'"
            ) from error
        self.url = url.rstrip("/").removesuffix("/v1")
        self.tell = tell
        self._client = OpenAI(
            api_key=key or "none", base_url=self.url, timeout=timeout, max_retries=retries
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """The JSON that a path gives.

        Raises:
            UltraEditError: the server refuses or does not answer; in one line.
        """
        return self._call("GET", path, None)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, missing_ok: bool = False
    ) -> Any:
        """What a call gives.

        Args:
            path: Of the call.
            body: What is sent.
            missing_ok: Whether the server may say that there is no such thing.

        Raises:
            UltraEditError: as in `get`.
        """
        return self._call("POST", path, dict(body or {}), missing_ok)

    @property
    def is_dry(self) -> bool:
        return self.tell is not None

    def _call(
        self, verb: str, path: str, body: dict[str, Any] | None, missing_ok: bool = False
    ) -> Any:
        if self.tell is not None:
            self.tell(f"{verb} {self.url}{path}{'' if body is None else f' {_shown(body)}'}")
            return {}
        import openai

        try:
            if body is None:
                return self._client.get(path, cast_to=object)
            return self._client.post(path, cast_to=object, body=body)
        except openai.APIStatusError as error:
            if missing_ok and error.status_code in (400, 404):
                return {}
            raise UltraEditError(
                f"{verb} {self.url}{path} was refused with {error.status_code}:"
                f" {_line(error.message)}"
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise UltraEditError(
                f"{verb} {self.url}{path} got no answer: {_line(str(error))}"
            ) from None


def _shown(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
