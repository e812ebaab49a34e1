"""Methods by name: every module of this package that has a METHOD, and entry points."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ultraedit import methods
from ultraedit.errors import InputError
from ultraedit.methods.base import Method

ENTRY_POINTS = "ultraedit.methods"
DEFAULT = "anchored"


def available() -> dict[str, type[Method]]:
    """All methods, by name; other packages add theirs as entry points of `ultraedit.methods`."""
    found: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        method = getattr(import_module(f"{methods.__name__}.{module.name}"), "METHOD", None)
        if method is not None:
            found[method.info.name] = method
    for entry in entry_points(group=ENTRY_POINTS):
        method = entry.load()
        found.setdefault(method.info.name, method)
    return dict(sorted(found.items()))


def method_class(name: str) -> type[Method]:
    """The method called `name`; `auto` is the recommended one.

    Raises:
        InputError: there is none; the ones there are get listed.
    """
    found = available()
    name = DEFAULT if name == "auto" else name
    if name not in found:
        raise InputError(f"there is no method {name!r}; there is {', '.join(found)}")
    return found[name]


def is_registered(method: Method) -> bool:
    """Whether another process finds the method by its name."""
    return available().get(method.info.name) is type(method)


def build(name: str, lr: float | str, settings: Mapping[str, Any]) -> Method:
    """The method called `name` with its settings.

    Raises:
        InputError: there is none of that name, or it has no such setting.
    """
    kind = method_class(name)
    has_lr = any(field.name == "lr" for field in fields(kind.Config))
    if not has_lr and lr != "auto":
        raise InputError(f"method {name} has no lr")
    return kind.with_settings({**settings, **({"lr": lr} if has_lr else {})})
