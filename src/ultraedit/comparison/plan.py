"""What a comparison compares: one base, one file of edits, and the runs over them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError


@dataclass(frozen=True)
class Run:
    """One method from the unedited model through all edits.

    Attributes:
        name: Of the run's folder.
        method: The method's name.
        settings: The method's own; `modules` and `batch_tokens` as in `Editor`.
        at_once: Whether all edits are one turn, which no stream of edits allows.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False

    @property
    def title(self) -> str:
        """As tables and pictures show it."""
        return f"{self.method} (all at once)" if self.at_once else self.method

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Run:
        """The run whose `asdict` this is."""
        return Run(**content)


@dataclass(frozen=True)
class Options:
    """What all runs share beside the model and the edits.

    Attributes:
        generate: Whether free answers are scored too.
        text: A text file for perplexity.
        text_digest: Over its content.
        append_eos, chat, batch_tokens: As in `Editor`.
        dtype, device: As in `Editor.from_pretrained`.
    """

    generate: bool = False
    text: str | None = None
    text_digest: str | None = None
    append_eos: bool | None = None
    chat: bool = False
    batch_tokens: int | None = None
    dtype: str = "auto"
    device: str = "auto"

    def compared(self) -> dict[str, Any]:
        """What may not change while a comparison lasts, by the options' names."""
        # The text may move; its content may not change.
        content = replace(self, text=self.text_digest, text_digest=None)
        return {name.replace("_", "-"): value for name, value in asdict(content).items()}


@dataclass(frozen=True)
class Plan:
    """Everything that says what a comparison's figures are of.

    Attributes:
        model: As the caller named it.
        fingerprint: Of the base's weights; None where they do not lie here as safetensors.
        file: As the caller named it.
        digest: Over the edits and their probes.
        edits: How many.
        turn_size: Edits of a turn.
        limit: How many records of the file are read at most.
        options: Shared by all runs.
        runs: In the order of the table.
    """

    model: str
    fingerprint: str | None
    file: str
    digest: str
    edits: int
    turn_size: int
    limit: int | None
    options: Options
    runs: tuple[Run, ...]

    def run(self, name: str) -> Run:
        """The run of that name."""
        return next(run for run in self.runs if run.name == name)

    def turn_size_of(self, run: Run) -> int:
        """Edits of one of its turns."""
        return self.edits if run.at_once else self.turn_size

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"runs": [asdict(run) for run in self.runs]}

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` gave.

        Raises:
            KeyError, TypeError: it is none.
        """
        parts = {
            "options": Options(**content["options"]),
            "runs": tuple(Run.of_json(run) for run in content["runs"]),
        }
        return Plan(**{**content, **parts})


def joined(out: Path, begun: Plan, wanted: Plan, free: Container[str]) -> Plan:
    """A comparison that goes on: the runs that are there, and those that are new.

    Args:
        out: The comparison's folder, for the message.
        begun: The plan found there.
        wanted: What is asked for now.
        free: Names of runs that have nothing to show, and may begin with other settings.

    Raises:
        InputError: what is asked for could not stand in one table with what is there.
    """
    for difference in _differences(begun, wanted):
        raise InputError(f"{out} {difference}; name another folder")
    runs = {run.name: run for run in begun.runs}
    for run in wanted.runs:
        known = runs.get(run.name, run)
        if known != run and run.name not in free:
            raise InputError(
                f"{out} was begun with {_settings(known)} for {run.title}, not with"
                f" {_settings(run)}; name another folder"
            )
        runs[run.name] = run
    return replace(wanted, runs=tuple(runs.values()))


def _differences(begun: Plan, wanted: Plan) -> list[str]:
    found = []
    if begun.fingerprint and wanted.fingerprint:
        same_base = begun.fingerprint == wanted.fingerprint
    else:
        same_base = begun.model == wanted.model
    if not same_base:
        found.append(f"was begun with another base, {begun.model}, than {wanted.model} is now")
    if begun.edits != wanted.edits:
        found.append(f"was begun with {begun.edits} edits, and {wanted.file} gives {wanted.edits}")
    elif begun.digest != wanted.digest:
        found.append(f"was begun with other records than {wanted.file} holds now")
    if begun.turn_size != wanted.turn_size:
        found.append(f"was begun with turns of {begun.turn_size}, not of {wanted.turn_size}")
    before, now = begun.options.compared(), wanted.options.compared()
    for name, value in before.items():
        if now[name] != value and name == "text":
            found.append(f"was begun with another --text, {begun.options.text}")
        elif now[name] != value:
            found.append(f"was begun with --{name} {_word(value)}, not {_word(now[name])}")
    return found


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "left open" if value is None else str(value)


def _settings(run: Run) -> str:
    given = ", ".join(f"{name}={value}" for name, value in sorted(run.settings.items()))
    return given or "no settings of its own"
