"""A whole data set: batch by batch, so that an interrupted build goes on where it stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from ultraedit.benchmark_data.card import card
from ultraedit.benchmark_data.facts import Fact, Record
from ultraedit.benchmark_data.make import Tally, Targets, Writer, records_of, screened
from ultraedit.benchmark_data.output import Format, read_records, write_records
from ultraedit.benchmark_data.rules import folded
from ultraedit.benchmark_data.seen import Seen, hashed
from ultraedit.benchmark_data.triples import BATCH, Source
from ultraedit.errors import InputError
from ultraedit.progress import Advance, Progress, no_progress
from ultraedit.storage.atomic import named_failures, write_file
from ultraedit.storage.lock import hold

STATE = "state.json"
# The file that says that a card is ours, and may be written again.
MARK = "<!-- written by ultraedit bench-build -->"


@dataclass(frozen=True)
class Plan:
    """What is built. With the same plan and files, the same records come out.

    Attributes:
        source: Where the facts come from.
        out: A `.jsonl` or `.parquet` file, or a folder.
        targets: Which answers are written.
        seed: Of every choice.
        limit: Most records.
        shuffle: Whether records come in random order, or in that of the facts.
        format: Of the files in a folder.
        shard: Records of each of these.
    """

    source: Source
    out: Path
    targets: Targets = "true"
    seed: int = 0
    limit: int | None = None
    shuffle: bool = False
    format: Format = "parquet"
    shard: int = 100_000

    @property
    def is_file(self) -> bool:
        return self.out.suffix in (".jsonl", ".parquet")

    @property
    def work(self) -> Path:
        """The folder of what is made before all of it is."""
        if self.is_file:
            return self.out.with_name(f".{self.out.name}.building")
        return self.out / ".building"

    def check_free(self) -> None:
        """Refuse to write over what is there, unless an interrupted call wrote it.

        Raises:
            InputError: something is.
        """
        if self.out.suffix and not self.is_file:
            raise InputError(f"{self.out} is to be a .jsonl or .parquet file, or a folder")
        if (self.work / STATE).is_file() or not self.out.exists():
            return
        if self.is_file:
            raise InputError(f"{self.out} is there already")
        if not self.out.is_dir():
            raise InputError(f"{self.out} is a file without the name of one; name a folder")
        if any(path != self.work for path in self.out.iterdir()):
            raise InputError(f"{self.out} is not empty; name another folder")

    def identity(self, writer: str) -> dict[str, Any]:
        """What two calls have to agree in, so that one goes on with the other's work."""
        return {
            "files": [
                [str(path.resolve()), (status := path.stat()).st_size, status.st_mtime_ns]
                for path in self.source.files
            ],
            "targets": self.targets, "seed": self.seed, "limit": self.limit, "writer": writer,
            "batch": BATCH, "ultraedit": version("ultraedit"),
        }  # fmt: skip


@dataclass
class Built:
    """A data set that is whole.

    Attributes:
        tally: What became of the facts.
        files: With records, in their order.
        card: The file that describes it.
        duplicates: Records whose prompt an earlier one has.
    """

    tally: Tally
    files: list[Path]
    card: Path
    duplicates: int


def build(
    plan: Plan,
    writer: Writer,
    *,
    progress: Progress = no_progress,
    stop: Callable[[], bool] = lambda: False,
    about: str = "",
) -> Built | None:
    """Build a data set, or go on with one that was interrupted.

    Args:
        plan: What to build.
        writer: Of the questions.
        progress: For people.
        stop: Asked after every batch.
        about: The command, for the card.

    Returns:
        None where it was stopped; a call with the same plan goes on.

    Raises:
        InputError: the output is there already, was begun with another plan, or the facts cannot
            be read.
        UltraEditError: a file cannot be written, another process builds it, or the writer cannot
            go on; what was made before is kept.
    """
    plan.check_free()
    with named_failures(plan.out):
        plan.work.mkdir(parents=True, exist_ok=True)
    with hold(plan.work / ".lock", plan.out), named_failures(plan.out):
        state = _State.opened(plan, writer.name)
        total = state.total
        for number, batch in enumerate(_batches(plan, progress)):
            if number < state.batches:
                batch.advance(len(batch.facts))
                continue
            left = None if plan.limit is None else plan.limit - total.records
            if left is not None and left <= 0:
                break
            made = records_of(
                batch.facts, writer, targets=plan.targets,
                chance=random.Random(f"{plan.seed}/{number}"), alone=batch.alone,
                true_objects=batch.true_objects, most=left, tally=batch.tally,
                advance=batch.advance,
            )  # fmt: skip
            part = plan.work / f"part-{number:05}.jsonl"
            write_records(_numbered(made, total.records), part)
            state.add(batch.tally)
            if stop():
                return None
        return _finished(plan, state, writer.name, about, progress)


@dataclass(frozen=True)
class _Batch:
    """Facts that rules allow, and what `records_of` needs beside them."""

    facts: list[Fact]
    tally: Tally
    true_objects: dict[tuple[str, str], set[str]]
    alone: bool
    advance: Advance


def _batches(plan: Plan, progress: Progress) -> Iterator[_Batch]:
    seen = Seen()
    with progress("building from facts", plan.source.size()) as bar:
        batches = plan.source.batches(progress)
        waiting = next(batches, None)
        alone = True
        while waiting is not None:
            following = next(batches, None)
            tally = Tally()
            true_objects: dict[tuple[str, str], set[str]] = {}
            if plan.targets == "counterfactual":
                for fact in waiting:
                    key = folded(fact.subject), fact.relation
                    true_objects.setdefault(key, set()).add(folded(fact.object))
            facts = screened(waiting, seen, tally)
            bar(len(waiting) - len(facts))
            yield _Batch(facts, tally, true_objects, alone and following is None, bar)
            waiting, alone = following, False


def _numbered(records: Iterable[Record], first: int) -> Iterator[Record]:
    for number, record in enumerate(records, first):
        yield replace(record, case_id=str(number))


class _State:
    """What was made before, in the work folder."""

    def __init__(
        self, path: Path, identity: dict[str, Any], batches: int = 0, total: Tally | None = None
    ) -> None:
        self.path, self.identity, self.batches = path, identity, batches
        self.total = total or Tally()

    @staticmethod
    def opened(plan: Plan, writer: str) -> _State:
        path, identity = plan.work / STATE, plan.identity(writer)
        if not path.is_file():
            return _State(path, identity)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            batches, total = int(content["batches"]), Tally.of_json(content["total"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged; delete {plan.work} to begin anew") from error
        if content["identity"] != identity:
            differs = [key for key in identity if content["identity"].get(key) != identity[key]]
            raise InputError(
                f"{plan.out} was begun with other {', '.join(differs)}; delete {plan.work} to"
                " begin anew"
            )
        return _State(path, identity, batches, total)

    def add(self, tally: Tally) -> None:
        """Count a batch whose part is on the disk."""
        self.batches += 1
        self.total.add(tally)
        content = {
            "identity": self.identity, "batches": self.batches, "total": self.total.to_json()
        }  # fmt: skip
        text = json.dumps(content)
        write_file(self.path, lambda sink: sink.write(memoryview(text.encode())))


def _finished(plan: Plan, state: _State, writer: str, about: str, progress: Progress) -> Built:
    """Bring the parts into the form that was asked for, and describe them."""
    total = state.total
    if not total.records:
        reasons = ", ".join(f"{name}: {n}" for name, n in total.refused.most_common(3))
        shutil.rmtree(plan.work, ignore_errors=True)
        raise InputError(f"{plan.source.path}: no fact became a record ({reasons or 'no facts'})")
    parts = [plan.work / f"part-{number:05}.jsonl" for number in range(state.batches)]
    examples: list[Record] = []
    seen, repeated = Seen(), 0

    def records() -> Iterator[Record]:
        nonlocal repeated
        hashes: list[int] = []
        for record in read_records(parts, plan.seed if plan.shuffle else None):
            if len(examples) < 3:
                examples.append(record)
            hashes.append(hashed(folded(record.prompt)))
            advance(1)
            yield record
            if len(hashes) == BATCH:
                repeated += seen.add(hashes).count(False)
                hashes = []
        repeated += seen.add(hashes).count(False)

    with progress("writing records", total.records) as advance:
        source = records()
        files = []
        for path, most in _targets(plan, total.records):
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = plan.work / f"out{path.suffix}"
            write_records(islice(source, most), staged)
            os.replace(staged, path)
            files.append(path)
        next(source, None)  # counts what the last of them repeat
    built = Built(total, files, _card_path(plan), repeated)
    text = card(
        total, [str(path.relative_to(built.card.parent)) for path in files],
        duplicates=repeated, examples=examples, targets=plan.targets, seed=plan.seed,
        writer=writer, about=about, mark=MARK,
    )  # fmt: skip
    write_file(built.card, lambda sink: sink.write(memoryview(text.encode())))
    shutil.rmtree(plan.work, ignore_errors=True)
    return built


def _targets(plan: Plan, records: int) -> Iterator[tuple[Path, int]]:
    """The files to write, and how many records each gets at most."""
    if plan.is_file:
        yield plan.out, records
        return
    count = -(-records // plan.shard)
    for number in range(count):
        name = f"train-{number:05}-of-{count:05}.{plan.format}"
        yield plan.out / "data" / name, plan.shard


def _card_path(plan: Plan) -> Path:
    """`README.md`, which is what the hub reads; another name where somebody else's is there."""
    folder = plan.out.parent if plan.is_file else plan.out
    readme = folder / "README.md"
    if readme.exists() and MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        return folder / f"{plan.out.stem}.README.md"
    return readme
