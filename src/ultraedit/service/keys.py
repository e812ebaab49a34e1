"""Who may do what: bearer keys, each with a name, a role and the edit sets it is for."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from filelock import FileLock, Timeout
from starlette.datastructures import Headers

from ultraedit.errors import InputError, UltraEditError
from ultraedit.service.errors import ApiError
from ultraedit.storage.atomic import Measured, named_failures, write_file

log = logging.getLogger(__name__)

FILE = "keys.json"
# For `search` and `match` as well as `fullmatch`. Two dots would be a way out of a folder.
SET_NAME = re.compile(r"^(?!.*\.\.)[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")
KEY_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
SECRET = re.compile(r"ue-[A-Za-z0-9_-]{43,}")
ALL = "*"
# Seconds between two looks at the file.
FRESH = 1.0
# Seconds to wait for another process that changes the file.
PATIENCE = 10.0

Role = Literal["reader", "editor", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

_BEARER = HTTPBearer(auto_error=False, description="A key of `ultraedit keys create`.")


@dataclass(frozen=True)
class Key:
    """The holder of a key.

    Attributes:
        name: Who; the author of what it changes.
        role: A reader asks, an editor also edits, an admin may do everything in every set.
        sets: The edit sets it is for; `*` for all.
    """

    name: str
    role: Role
    sets: tuple[str, ...]

    def may(self, role: Role, set_name: str | None = None) -> bool:
        """Whether it may do what takes a role, in a set where one is named."""
        if ROLES.index(self.role) < ROLES.index(role):
            return False
        return set_name is None or self.role == "admin" or bool({ALL, set_name} & {*self.sets})


@dataclass(frozen=True)
class _Held:
    """A key as the file has it: with the SHA-256 of its secret."""

    key: Key
    digest: str

    def to_dict(self) -> dict[str, Any]:
        key = self.key
        return {"name": key.name, "role": key.role, "sets": [*key.sets], "sha256": self.digest}

    @staticmethod
    def read(entry: dict[str, Any]) -> _Held:
        digest = entry["sha256"]
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("a hash is no SHA-256")
        return _Held(_checked(entry["name"], entry["role"], entry["sets"]), digest)


class Keys:
    """The keys of a server's folder; safe to use from several threads and processes.

    A secret has 256 random bits, so that a plain SHA-256 of it gives nothing away.

    Args:
        folder: The server's; made with the first key.
        clock: Seconds that only go forward.

    Raises:
        InputError: the file is damaged, or others than its owner have access to it.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / FILE
        self._clock = clock
        self._load()

    def create(self, name: str, role: Role, sets: Sequence[str]) -> str:
        """Make a key.

        Returns:
            Its secret, which is kept nowhere.

        Raises:
            InputError: the name is taken, or what is given makes no key.
            UltraEditError: the file cannot be written.
        """
        key = _checked(name, role, sets)
        with self._changing():
            if any(held.key.name == name for held in self._held):
                raise InputError(f"there is a key named {name!r} already")
            return self._add(key)

    def create_first(self, name: str = "admin") -> str | None:
        """Make a key for everything in a folder that never had one.

        Returns:
            Its secret; None if there is a file of keys, even an empty one.

        Raises:
            UltraEditError: the file cannot be written.
        """
        with self._changing():
            return None if self._path.exists() else self._add(_checked(name, "admin", [ALL]))

    def revoke(self, name: str) -> None:
        """Refuse a key from now on; other processes do so within a second.

        Raises:
            InputError: no key has this name.
            UltraEditError: the file cannot be written.
        """
        with self._changing():
            left = [held for held in self._held if held.key.name != name]
            if len(left) == len(self._held):
                raise InputError(f"{self._path} has no key named {name!r}")
            self._save(left)

    def list(self) -> tuple[Key, ...]:
        """The keys by the time they were made, oldest first.

        Raises:
            InputError: the file has been damaged.
        """
        self._refresh()
        return tuple(held.key for held in self._held)

    def of(self, secret: str) -> Key:
        """The holder of a secret.

        Raises:
            ApiError: 401, nobody; 500, the file has been damaged.
        """
        try:
            self._refresh()
        except UltraEditError as error:
            # Keys that were read before may have been revoked since.
            log.error("%s", error)
            raise ApiError(500, "the server cannot read its keys") from error
        digest, found = _digest(secret), None
        for held in self._held:
            # All of them are compared, so that the time says nothing about which one it was.
            if hmac.compare_digest(held.digest, digest):
                found = held.key
        if found is None:
            raise ApiError(401, "this API key is not valid", code="invalid_api_key")
        return found

    def _refresh(self) -> None:
        if self._clock() - self._looked >= FRESH and self._stamp_now() != self._stamp:
            self._load()

    def _stamp_now(self) -> tuple[int, ...] | None:
        self._looked = self._clock()
        try:
            return _stamp(self._path.stat())
        except OSError:
            return None

    def _load(self) -> None:
        # Until the reading succeeds every look is a fresh one.
        self._looked = -math.inf
        self._held, self._stamp = _read(self._path)
        self._looked = self._clock()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with named_failures(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with FileLock(self._path.with_name(f"{FILE}.lock"), PATIENCE, mode=0o600):
                    self._load()
                    yield
            except Timeout as error:
                raise UltraEditError(f"{self._path} is in use by another process") from error

    def _add(self, key: Key) -> str:
        secret = f"ue-{secrets.token_urlsafe(32)}"
        self._save([*self._held, _Held(key, _digest(secret))])
        return secret

    def _save(self, held: Sequence[_Held]) -> None:
        text = json.dumps({"keys": [one.to_dict() for one in held]}, indent=2) + "\n"

        def fill(sink: Measured) -> None:
            os.fchmod(sink.stream.fileno(), 0o600)
            sink.write(memoryview(text.encode()))

        write_file(self._path, fill)
        self._load()


def authorised(role: Role) -> Callable[..., Awaitable[Key]]:
    """A FastAPI dependency: the key of a request that takes a role.

    It reads `app.state.service.keys`. A route with a path parameter `set` takes the role in this
    set.

    Returns:
        The dependency, which raises `ApiError`: 401 without a valid key, 404 for a set that the
        key is not for, 403 where its role does not suffice.
    """

    async def check(request: Request, _: Annotated[object, Depends(_BEARER)]) -> Key:
        key = key_of(request)
        name: str | None = request.path_params.get("set")
        if name is not None and not (SET_NAME.fullmatch(name) and key.may("reader", name)):
            raise no_set(name)
        if not key.may(role, name):
            raise ApiError(403, f"this takes a key with the role {role}; {key.name} is {key.role}")
        return key

    return check


def key_of(request: Request) -> Key:
    """The key of a request; also left in `request.state.key`.

    Raises:
        ApiError: 401, it has no valid key.
    """
    secret = secret_in(request.headers)
    if secret is None:
        message = "no API key: send the header Authorization: Bearer ue-..."
        raise ApiError(401, message, code="invalid_api_key")
    keys: Keys = request.app.state.service.keys
    request.state.key = key = keys.of(secret)
    return key


def secret_in(headers: Headers) -> str | None:
    """What a request gives as its key; None if nothing."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return (secret.strip() or None) if scheme.lower() == "bearer" else None


def no_set(name: str) -> ApiError:
    """What is said of a set that is not there, and of one that the key is not for."""
    return ApiError(404, f"no edit set {name!r}", param="set")


def _checked(name: str, role: Role, sets: Sequence[str]) -> Key:
    """A key.

    Raises:
        InputError: nothing that could be one.
    """
    if not KEY_NAME.fullmatch(name):
        raise InputError(f"a key's name has 1 to 64 of A-Z a-z 0-9 _ . @ -, unlike {name!r}")
    if role not in ROLES:
        raise InputError(f"a role is one of {', '.join(ROLES)}, not {role!r}")
    if not sets:
        raise InputError(f"{name} is for no edit set; {ALL} stands for all")
    for one in sets:
        if one != ALL and not SET_NAME.fullmatch(one):
            raise InputError(f"no name of an edit set: {one!r}")
    if role == "admin" and ALL not in sets:
        raise InputError("an admin's key is for all edit sets")
    return Key(name, role, (ALL,) if ALL in sets else tuple(dict.fromkeys(sets)))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    # The time of change tells a new mode too.
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> tuple[tuple[_Held, ...], tuple[int, ...] | None]:
    """The keys in a file, and what tells whether it is still the same."""
    try:
        with open(path, "rb") as stream:
            found, content = os.fstat(stream.fileno()), stream.read()
    except FileNotFoundError:
        return (), None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if found.st_mode & 0o077:
        raise InputError(f"others than its owner have access to {path}; run: chmod 600 {path}")
    try:
        held = tuple(map(_Held.read, json.loads(content)["keys"]))
        if len({one.key.name for one in held}) < len(held):
            raise ValueError("two keys have one name")
    except (ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return held, _stamp(found)
