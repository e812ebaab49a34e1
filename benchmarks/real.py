"""Quality and speed of methods on a real model and published records.

    python benchmarks/real.py MODEL counterfact_2k.json -n 100 --turn-size 100 \\
        --methods anchored,ultraedit -o real.json

All edits are made, then all are scored: efficacy, rephrase and locality by token (teacher-forced;
locality is agreement with the unedited model's own greedy continuation, as many tokens as the
record's answer has), and with --generate by free greedy answers, as plain text and in the chat
template: how many begin with the answer (of locality: with the unedited model's own, as many
tokens as above), how many name it in their first sentence ("contains"), how many end by
themselves, and how many locality answers end earlier than the unedited model's. With --prose
FILE, perplexity on that text.
Seconds are also given in plain forward passes over the texts of one turn. `--single` restores the
model after every edit. `--save` keeps the edited model of the last method, for `ultraedit ability`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import transformers

from ultraedit import Case, Edit, Editor
from ultraedit.data import read_cases
from ultraedit.encoding.tokenise import Encoded
from ultraedit.evaluation.matching import mentions, normalise_answer
from ultraedit.evaluation.perplexity import perplexity
from ultraedit.forward.generate import Answer

ANSWER_TOKENS = 24
PROSE_TOKENS = 8_000


def chosen(path: Path, count: int, skip: int, subjects: bool) -> list[Case]:
    """`count` records with a rephrase and a locality question."""
    cases = (
        case
        for case in read_cases(path)
        if {"rephrase", "locality"} <= {probe.kind for probe in case.probes}
    )
    found = list(islice(cases, skip, skip + count))
    if subjects:
        return found
    return [Case(Edit(c.edit.prompt, c.edit.target, id=c.edit.id), c.probes) for c in found]


def begins(text: str, accepted: tuple[str, ...]) -> bool:
    """Whether the first words of `text` are an accepted answer: plain text goes on after it."""
    words = normalise_answer(text.replace(".", " ").replace(",", " ")).split()
    wanted = [
        normalise_answer(answer.replace(".", " ").replace(",", " ")).split() for answer in accepted
    ]
    return any(words[: len(answer)] == answer for answer in wanted)


class Scorer:
    """Scores of cases; made before any edit."""

    def __init__(self, editor: Editor, cases: list[Case], generate: bool) -> None:
        self.workbench, self.cases = editor.workbench, cases
        encoder = editor.workbench.encoder
        probes = [{p.kind: p for p in reversed(case.probes)} for case in cases]
        self.asked = {
            "efficacy": [(c.edit.prompt, c.edit.answers) for c in cases],
            "rephrase": [(p["rephrase"].prompt, c.edit.answers)
                         for p, c in zip(probes, cases, strict=True)],
            "locality": [(p["locality"].prompt, p["locality"].answers) for p in probes],
        }  # fmt: skip
        self.texts = {
            kind: [encoder.encode(prompt, answers[0]) for prompt, answers in asked]
            for kind, asked in self.asked.items()
        }
        self.encoders = {"generated": encoder}
        if getattr(encoder.tokenizer, "chat_template", None):
            self.encoders["chat"] = replace(encoder, chat=True)
        prompts = [encoder.prompt_ids(prompt) for prompt, _ in self.asked["locality"]]
        self.before = self.free("generated", self.asked["locality"])
        self.before_chat = self.free("chat", self.asked["locality"]) if generate else []
        self.texts["locality"] = [
            Encoded(tuple(prompt), own, len(own))
            for prompt, answer, text in zip(
                prompts, self.before, self.texts["locality"], strict=True
            )
            for own in [answer.ids[: text.scored]]
        ]

    def free(self, form: str, asked: list[tuple[str, tuple[str, ...]]]) -> list[Answer]:
        """Free greedy answers in one form; none where the model has no template."""
        if form not in self.encoders:
            return []
        ids = [self.encoders[form].prompt_ids(prompt) for prompt, _ in asked]
        return self.workbench.answers(ids, ANSWER_TOKENS)

    def score(self, places: list[int], generate: bool) -> dict[str, float]:
        """Means over the cases at `places`."""
        result = {}
        for kind, texts in self.texts.items():
            scored = self.workbench.score([texts[place] for place in places])
            result[kind] = statistics.mean(one.token_accuracy for one in scored)
            result[f"{kind}_exact"] = statistics.mean(one.exact for one in scored)
        result["mean"] = statistics.mean(result[kind] for kind in self.texts)
        for form in self.encoders if generate else ():
            unedited = self.before if form == "generated" else self.before_chat
            for kind, asked in self.asked.items():
                mine = [asked[place] for place in places]
                free = self.free(form, mine)
                if kind == "locality":
                    counts = [self.texts[kind][place].scored for place in places]
                    same = [
                        a.ids[:n] == unedited[p].ids[:n]
                        for a, n, p in zip(free, counts, places, strict=True)
                    ]
                    earlier = [
                        len(a.ids) < len(unedited[p].ids) for a, p in zip(free, places, strict=True)
                    ]
                    result[f"{kind}_{form}_ends_earlier"] = statistics.mean(earlier)
                else:
                    named = [mentions(a.text, ok) for a, (_, ok) in zip(free, mine, strict=True)]
                    result[f"{kind}_{form}_contains"] = statistics.mean(named)
                    same = [begins(a.text, ok) for a, (_, ok) in zip(free, mine, strict=True)]
                result[f"{kind}_{form}"] = statistics.mean(same)
                ended = [len(answer.ids) < ANSWER_TOKENS for answer in free]
                result[f"{kind}_{form}_ended"] = statistics.mean(ended)
        self.workbench.forget()
        return result


def prose(editor: Editor, path: Path) -> float | None:
    return perplexity(
        editor.model, editor.tokenizer, path, device=editor.workbench.device, limit=PROSE_TOKENS
    )


def run(arguments: argparse.Namespace, spec: str) -> dict[str, object]:
    name, *settings = spec.split(":")
    options = {key: json.loads(value) for key, value in (s.split("=", 1) for s in settings)}
    editor = Editor.from_pretrained(
        arguments.model, method=name, dtype=arguments.dtype, device=arguments.device,
        history="none", **options,
    )  # fmt: skip
    cases = chosen(arguments.file, arguments.n, arguments.skip, not arguments.no_subject)
    scorer = Scorer(editor, cases, arguments.generate)
    edits = [case.edit for case in cases]
    size = 1 if arguments.single else arguments.turn_size
    sample = scorer.texts["efficacy"][:size]
    timed = []
    for _ in range(4):
        editor.workbench.forget()
        began = time.perf_counter()
        editor.workbench.score(sample)
        timed.append(time.perf_counter() - began)
    forward = statistics.median(timed[1:])
    masters = {n: master.copy() for n, master in editor.workbench.masters.items()}
    turns, results = [], []
    began = time.perf_counter()
    for first in range(0, len(edits), size):
        turn = editor.edit(edits[first : first + size])
        turns.append(turn)
        done = time.perf_counter() - began
        left = done / (first + size) * (len(edits) - first - size)
        print(f"{spec}: {first + size} of {len(edits)} edits, {left:.0f} s left", file=sys.stderr)
        if arguments.single:
            results.append(scorer.score([first], arguments.generate))
            editor.workbench.restore(masters)
            editor.method.load_state_dict({})
    if arguments.single:
        scores = {key: statistics.mean(one[key] for one in results) for key in results[0]}
    else:
        scores = scorer.score(list(range(len(cases))), arguments.generate)
    if arguments.prose:
        with editor.unedited():
            before = prose(editor, arguments.prose)
        scores |= {"perplexity_before": before, "perplexity": prose(editor, arguments.prose)}
    if arguments.save:
        editor.save(arguments.save)
    seconds = statistics.median(turn.seconds for turn in turns[1:] or turns)
    return {
        "method": spec,
        "scores": scores,
        "passes": statistics.mean(turn.passes for turn in turns),
        "learned": statistics.mean(one for turn in turns for one in turn.learned),
        "first_turn_seconds": turns[0].seconds,
        "turn_seconds": seconds,
        "forward_seconds": forward,
        "turn_forward_passes": seconds / forward,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--turn-size", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--methods", default="anchored", help="names, as in anchored:passes=8")
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--no-subject", action="store_true")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--prose", type=Path, help="a text file to measure perplexity on")
    parser.add_argument("--save", type=Path, help="a folder for the edited model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for spec in arguments.methods.split(","):
        rows.append(run(arguments, spec))
        print(json.dumps(rows[-1]))
        machine = {
            "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "transformers": transformers.__version__,
        }  # fmt: skip
        given = {key: str(value) for key, value in vars(arguments).items()}
        result = {"machine": machine, "arguments": given, "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
