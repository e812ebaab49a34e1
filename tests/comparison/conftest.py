"""A tiny base, a file of facts, plans over them, and made-up results."""

import json

import pytest

from ultraedit.comparison.folder import held
from ultraedit.comparison.plan import Options, Plan, Run
from ultraedit.comparison.prepare import prepare
from ultraedit.comparison.result import Cost, Result
from ultraedit.comparison.state import Comparison
from ultraedit.evaluation.report import Report

WORDS = ["paris", "france", "jazz", "guitar", "city", "person", "born", "plays"]
LR = {"ultraedit": {"lr": 0.05}, "ft": {"lr": 0.01, "epochs": 3}}


def record(number):
    target = WORDS[number * 5 % 8]
    return {
        "id": f"r{number}",
        "prompt": f"{WORDS[number % 8]} in {WORDS[number * 3 % 7]} is",
        "target": target,
        "probes": [
            {"kind": "rephrase", "prompt": f"what is {WORDS[number % 8]}", "target": target},
            {"kind": "locality", "prompt": f"who was {WORDS[number % 5]}", "target": "born"},
        ],
    }


@pytest.fixture(scope="session")
def base(build, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "base"
    build("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_facts(tmp_path):
    """`write_facts(records, name)`: a file of them."""

    def write(records, name="facts.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        return path

    return write


@pytest.fixture
def facts(write_facts):
    """Seven records."""
    return write_facts([record(number) for number in range(7)])


@pytest.fixture
def records():
    """`records(count)`: what `facts` holds, or more of the kind."""
    return lambda count=7: [record(number) for number in range(count)]


@pytest.fixture
def plan_of(base, facts):
    """`plan_of(*methods, **options)`: a plan over the seven records, in turns of two."""

    def make(*methods, file=facts, **options):
        given = {
            "turn_size": 2,
            "settings": {name: LR.get(name, {}) for name in methods},
            **options,
        }
        return prepare(str(base), str(file), methods=methods, **given)

    return make


@pytest.fixture
def folder(tmp_path):
    """A held folder."""
    with held(tmp_path / "out") as one:
        yield one


@pytest.fixture
def some_cost():
    return Cost(
        edits=40, turns=2, learned=38, passes=4, seconds=2.0, first_turn_seconds=1.5,
        later_seconds_per_edit=0.025, peak_bytes=3_000_000, loaded_bytes=1_000_000,
        kept_bytes=4_000,
    )  # fmt: skip


def scores_of(efficacy, locality):
    return {
        "efficacy": {"token_accuracy": efficacy, "exact_match": efficacy / 2},
        "rephrase": {"token_accuracy": efficacy, "exact_match": efficacy / 4},
        "locality": {
            "token_accuracy": 0.5, "exact_match": 0.25, "agreement": locality,
            "agreement_exact": locality / 2,
        },
    }  # fmt: skip


@pytest.fixture
def made_up(some_cost):
    """`made_up(name=(locality, efficacy), ...)`: a comparison; `_at_once` marks such runs."""

    def make(failures=None, unfinished=(), **positions):
        runs, results = [], {}
        for name, (locality, efficacy) in positions.items():
            method = name.removesuffix("_at_once")
            run = Run(name, method, {}, method != name)
            report = Report(
                40,
                {"efficacy": 40, "rephrase": 40, "locality": 30},
                scores_of(0.125, 1.0),
                scores_of(efficacy, locality),
                seconds=1.0,
            )
            machine = {
                "device": "cpu", "name": "a processor", "threads": 1, "dtype": "float32",
                "torch": "2", "transformers": "5",
            }  # fmt: skip
            editor = {"modules": ["down_proj"], "lr": None, "batch_tokens": 2048}
            runs.append(run)
            results[name] = Result(run, editor, machine, some_cost, report)
        runs += [Run(name, name) for name in (*(failures or {}), *unfinished)]
        plan = Plan("demo", "ab" * 32, "facts.jsonl", "d", 40, 20, None, Options(), tuple(runs))
        return Comparison(plan, ("ultraedit compare demo facts.jsonl",), results, failures or {})

    return make
