"""General ability: the lm-eval harness asked before and after editing, paired by document."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultraedit.ability.harness import Harness, open_harness
    from ultraedit.ability.measuring import compare, measure
    from ultraedit.ability.report import AbilityReport

__all__ = ["AbilityReport", "Harness", "compare", "measure", "open_harness"]

_HOMES = {
    "AbilityReport": "report",
    "compare": "measuring",
    "Harness": "harness",
    "measure": "measuring",
    "open_harness": "harness",
}


def __getattr__(name: str) -> Any:
    # Reading a report needs neither torch nor the harness.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
