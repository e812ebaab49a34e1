"""Where a model's answers are decided: what a hidden state at one token can change.

    python benchmarks/tracing.py demo src/ultraedit/demo/cases.jsonl -o tracing.json

For every block, two questions about its output at the subject's last token, at all of the
subject's tokens, and at the prompt's last token.

`patched`: it is replaced by what the same question about another subject gives there. Does the
model then answer as it does to that one? (Pairs of subjects of as many tokens.)

`sought`: Adam looks for a change of it, of any length, that brings the new answer of an edit,
as ROME and MEMIT do within their limits. How far does the answer's loss fall?
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import machine
from torch import nn

from ultraedit import Case, Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases
from ultraedit.encoding.subject import last_token, subject_end
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.positions import Spots, moved
from ultraedit.methods.locate.contexts import Located, essence, located
from ultraedit.methods.locate.keys import at_places
from ultraedit.methods.locate.value import Search, search
from ultraedit.models.discover import decoder_blocks
from ultraedit.records import Edit
from ultraedit.workbench import ModelWorkbench

# Any length, and steps enough to get there.
FREE = Search(steps=60, lr=None, clamp=4.0, decay=0.0, kl=0.0, enough=0.05)


@dataclass(frozen=True)
class Asked:
    """A question, with the places of its subject's tokens."""

    ids: tuple[int, ...]
    first: int
    last: int

    @property
    def text(self) -> Encoded:
        return Encoded(self.ids, (self.ids[-1],), 1)

    def places(self, where: str) -> list[int]:
        spots = {
            "subject's last token": [self.last],
            "all of the subject": list(range(self.first, self.last + 1)),
            "prompt's last token": [len(self.ids) - 1],
        }
        return spots[where]


def asked(workbench: ModelWorkbench, prompt: str, subject: str) -> Asked:
    end = subject_end(prompt, subject)
    begin = last_token(workbench.encoder, prompt, end - len(subject.strip()) + 1)
    return Asked(
        tuple(workbench.encoder.prompt_ids(prompt)),
        begin,
        last_token(workbench.encoder, prompt, end),
    )


def pairs(workbench: ModelWorkbench, cases: list[Case], count: int) -> list[tuple[Asked, Asked]]:
    """The same question about two subjects of as many tokens, which it answers differently."""
    rng = random.Random(0)
    found: list[tuple[Asked, Asked]] = []
    for case in rng.sample(cases, len(cases)):
        edit = case.edit
        one = asked(workbench, edit.prompt, edit.subject or "")
        # Locality probes ask the same question of a subject that the model knows.
        for probe in case.probes:
            frame = edit.prompt.replace(edit.subject or "", "\0")
            head, _, tail = frame.partition("\0")
            if probe.kind != "locality" or not tail or not probe.prompt.startswith(head):
                continue
            if not probe.prompt.endswith(tail):
                continue
            other_subject = probe.prompt[len(head) : len(probe.prompt) - len(tail)]
            other = asked(workbench, probe.prompt, other_subject)
            same = len(one.ids) == len(other.ids) and (one.first, one.last) == (
                other.first,
                other.last,
            )
            if same and answers(workbench, [one]) != answers(workbench, [other]):
                found.append((one, other))
        if len(found) >= count:
            break
    return found[:count]


@torch.no_grad()
def answers(workbench: ModelWorkbench, questions: list[Asked]) -> list[int]:
    """The likeliest next token of every question."""
    found: dict[int, int] = {}
    for batch in workbench.batches([one.text for one in questions]):
        best = workbench.logits(batch).argmax(-1).tolist()
        found |= dict(zip(batch.index.tolist(), best, strict=True))
    return [found[place] for place in range(len(questions))]


@torch.no_grad()
def patched(
    workbench: ModelWorkbench, block: nn.Module, both: list[tuple[Asked, Asked]], where: str
) -> float:
    """The share of pairs in which the first is answered as the second is."""
    hits = 0
    for one, other in both:
        spots = [Located(q.text, place) for q in (one, other) for place in q.places(where)]
        outputs = at_places(workbench, {"block": block}, spots)["block"][1]
        own, others = outputs.chunk(2)
        (batch,) = workbench.batches([one.text])
        places = torch.tensor(one.places(where)) + batch.starts[0]
        with moved(block, Spots(places, batch.width), others - own):
            said = int(workbench.logits(batch).argmax(-1)[0])
        hits += said == answers(workbench, [other])[0]
    return hits / len(both)


def sought(
    workbench: ModelWorkbench, block: nn.Module, edits: list[Edit], token: str
) -> dict[str, float]:
    """Mean loss of the new answers' tokens, and how many edits come under half a nat."""
    own = [[located(workbench, edit, token)] for edit in edits]
    now = at_places(workbench, {"block": block}, [texts[0] for texts in own])["block"][1]
    change = search(workbench, block, now, own, [essence(workbench, e, token) for e in edits], FREE)
    losses = []
    places = [texts[0].place for texts in own]
    for batch in workbench.batches([texts[0].text for texts in own]):
        rows = change[batch.index]
        with torch.no_grad(), moved(block, Spots.of(batch, places), rows):
            logits = workbench.logits(batch).float()
        found = nn.functional.cross_entropy(
            logits, batch.labels[batch.answer_mask], reduction="none"
        )
        losses += [float(part.mean()) for part in found.split(batch.answer_mask.sum(1).tolist())]
    return {
        "loss": sum(losses) / len(losses),
        "found": sum(loss < 0.5 for loss in losses) / len(losses),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("file", help="cases whose edits name their subjects")
    parser.add_argument("-n", type=int, default=20, help="edits that are sought")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("-o", "--out", type=Path, default=Path("tracing.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    editor = Editor.from_pretrained(arguments.model, method="ultraedit", history="none")
    workbench = editor.workbench
    # Every block is looked at, the first one too.
    workbench.passes.prefix = None
    _, blocks = decoder_blocks(workbench.model)
    cases = list(read_cases(arguments.file))
    both = pairs(workbench, cases, arguments.pairs)
    edits = [case.edit for case in cases[: arguments.n]]
    rows: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        for where, token in (
            ("subject's last token", "subject_last"), ("all of the subject", ""),
            ("prompt's last token", "last"),
        ):  # fmt: skip
            row: dict[str, Any] = {"block": number, "where": where}
            row["patched"] = patched(workbench, block, both, where)
            if token:
                row |= sought(workbench, block, edits, token)
            rows.append(row)
            print(row, flush=True)
    result = {
        "machine": machine(torch.device("cpu")), "model": arguments.model,
        "pairs": len(both), "edits": len(edits), "rows": rows,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("block", "where", "patched", "loss sought", "found")
    for row in rows:
        numbers = [f"{row[k]:.3f}" if k in row else "" for k in ("patched", "loss", "found")]
        table.add_row(str(row["block"]), row["where"], *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
