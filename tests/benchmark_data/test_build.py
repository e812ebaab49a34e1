import json
import re
from dataclasses import replace

import pytest
from datasets import load_dataset
from filelock import FileLock

from ultraedit import InputError, UltraEditError
from ultraedit.benchmark_data import triples
from ultraedit.benchmark_data.build import MARK, Plan, build
from ultraedit.benchmark_data.facts import Fact, Questions, Record
from ultraedit.benchmark_data.rules import refused_fact, refused_locality, refused_questions
from ultraedit.benchmark_data.templates import TemplateWriter
from ultraedit.benchmark_data.triples import Source
from ultraedit.data import read_cases

RELATIONS = ("P19", "P106", "P27", "P50")


@pytest.fixture
def plan_of(table_of, tmp_path):
    """`plan_of(facts, **changes)`: a plan that writes `data.jsonl`."""

    def make(facts, **changes):
        source = Source.of(table_of(facts))
        return replace(Plan(source, tmp_path / "out" / "data.jsonl"), **changes)

    return make


def records(path):
    return [Record(**json.loads(line)) for line in path.read_text().splitlines()]


def check_rules(record):
    fact = Fact(record.subject, record.relation, record.ans)
    assert refused_fact(fact) is None
    questions = Questions(record.prompt, record.rephrase_prompt)
    assert refused_questions(fact, questions, record.ans) is None
    assert refused_locality(fact, record.ans, record.loc, record.loc_ans) is None


@pytest.mark.parametrize("targets", ["true", "counterfactual"])
def test_every_record_keeps_every_rule(plan_of, facts_of, targets):
    facts = facts_of(400) + [Fact("Subject1", "P19", f"Object{n}") for n in range(3)]
    built = build(plan_of(facts, targets=targets), TemplateWriter())
    found = records(built.files[0])
    assert len(found) == built.tally.records > 300
    assert sum(built.tally.refused.values()) + len(found) == built.tally.facts == 403
    true = {}
    for fact in facts:
        true.setdefault((fact.subject, fact.relation), set()).add(fact.object)
    edited = {record.subject for record in found}
    assert len({(record.subject, record.relation) for record in found}) == len(found)
    for number, record in enumerate(found):
        assert record.case_id == str(number)
        check_rules(record)
        answers = true[record.subject, record.relation]
        assert (record.ans in answers) == (targets == "true")
        (outside,) = re.findall(r"Subject\d+", record.loc)
        assert outside not in edited, "locality is about subjects that are never edited"
        assert record.loc_ans in set().union(*(true.get((outside, r), ()) for r in RELATIONS))
    assert built.duplicates == 0


def test_editors_read_what_is_built(plan_of, facts_of):
    built = build(plan_of(facts_of(40)), TemplateWriter())
    cases = list(read_cases(str(built.files[0])))
    found = records(built.files[0])
    assert [case.edit.target for case in cases] == [record.ans for record in found]
    assert [case.edit.subject for case in cases] == [record.subject for record in found]
    assert [[probe.kind for probe in case.probes] for case in cases] == [
        ["rephrase", "locality"]
    ] * len(found)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_datasets_opens_the_folder(plan_of, facts_of, tmp_path, form):
    plan = plan_of(facts_of(200), out=tmp_path / "set", format=form, shard=50)
    built = build(plan, TemplateWriter())
    assert len(built.files) == 4
    assert not plan.work.exists()
    opened = load_dataset(str(plan.out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(opened) == built.tally.records
    assert opened[0]["case_id"] == "0"
    text = built.card.read_text()
    assert built.card == plan.out / "README.md"
    for said in (
        "P19",
        "place of birth",
        "held out for locality",
        "Subject",
        f"{len(opened)} edits",
    ):
        assert said in text


def test_datasets_opens_the_folder_of_a_file(plan_of, facts_of, tmp_path):
    for name in ("data.jsonl", "data.parquet"):
        plan = plan_of(facts_of(50), out=tmp_path / name.replace(".", "-") / name)
        built = build(plan, TemplateWriter())
        opened = load_dataset(
            str(plan.out.parent), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(opened) == built.tally.records


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(plan_of, facts_of, tmp_path):
    found = []
    for number, seed in enumerate((5, 5, 6)):
        plan = plan_of(facts_of(120), out=tmp_path / f"{number}.jsonl", seed=seed, shuffle=True)
        found.append(build(plan, TemplateWriter(seed)).files[0].read_bytes())
    assert found[0] == found[1] != found[2]
    lines = [json.loads(line) for line in found[0].splitlines()]
    numbers = [int(line["case_id"]) for line in lines]
    assert sorted(numbers) == list(range(len(numbers))) != numbers


def test_an_interrupted_build_goes_on_to_the_same_bytes(plan_of, facts_of, tmp_path, monkeypatch):
    monkeypatch.setattr(triples, "BATCH", 60)
    facts = facts_of(330) + facts_of(20)
    whole = build(plan_of(facts, out=tmp_path / "whole.jsonl"), TemplateWriter())
    plan = plan_of(facts, out=tmp_path / "other.jsonl")
    writer = TemplateWriter()
    own, asked = writer.write, []

    def counting(some):
        asked.append(len(some))
        return own(some)

    writer.write = counting
    stops = 0
    while build(plan, writer, stop=lambda: True) is None:
        stops += 1
        assert not plan.out.exists()
    assert stops == 6
    assert len(asked) == 12, "no batch is written twice"
    assert plan.out.read_bytes() == whole.files[0].read_bytes()
    # Killed between the files and the card: the parts are still there.
    assert not plan.work.exists()


def test_a_failing_writer_leaves_what_was_made(plan_of, facts_of, tmp_path, monkeypatch):
    monkeypatch.setattr(triples, "BATCH", 60)

    class Failing(TemplateWriter):
        calls = 0

        def write(self, some):
            self.calls += 1
            if self.calls == 4:
                raise UltraEditError("no more")
            return super().write(some)

    plan = plan_of(facts_of(200))
    with pytest.raises(UltraEditError, match="no more"):
        build(plan, Failing())
    built = build(plan, TemplateWriter())
    other = build(plan_of(facts_of(200), out=tmp_path / "other.jsonl"), TemplateWriter())
    assert built.files[0].read_bytes() == other.files[0].read_bytes()


def test_a_limit_is_kept_and_asks_for_no_more(plan_of, facts_of):
    writer = TemplateWriter()
    own, given = writer.write, []

    def watched(some):
        for one in own(some):
            given.append(one)
            yield one

    writer.write = watched
    built = build(plan_of(facts_of(400), limit=10), writer)
    assert built.tally.records == len(records(built.files[0])) == 10
    assert len(given) < 40


def test_what_is_there_is_not_written_over(plan_of, facts_of, tmp_path):
    facts = facts_of(40)
    plan = plan_of(facts)
    build(plan, TemplateWriter())
    with pytest.raises(InputError, match="is there already"):
        build(plan, TemplateWriter())
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        build(plan_of(facts, out=folder), TemplateWriter())
    with pytest.raises(InputError, match="jsonl or .parquet"):
        build(plan_of(facts, out=tmp_path / "a.csv"), TemplateWriter())
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    # What a writer keeps in the work folder is no build that was begun.
    plan.work.mkdir()
    with pytest.raises(InputError, match="is there already"):
        build(plan, TemplateWriter())
    inside = plan_of(facts, out=tmp_path / "set")
    inside.work.mkdir(parents=True)
    assert build(inside, TemplateWriter()).tally.records


def test_a_readme_of_somebody_else_stays(plan_of, facts_of, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    built = build(plan_of(facts_of(40)), TemplateWriter())
    assert built.card.name == "data.README.md"
    assert MARK in built.card.read_text()
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


def test_another_plan_does_not_go_on(plan_of, facts_of, monkeypatch):
    monkeypatch.setattr(triples, "BATCH", 60)
    facts = facts_of(200)
    plan = plan_of(facts)
    assert build(plan, TemplateWriter(), stop=lambda: True) is None
    with pytest.raises(InputError, match=r"with other seed.*delete"):
        build(replace(plan, seed=3), TemplateWriter())
    plan.source.path.write_text(plan.source.path.read_text() + "P19\tmore\tthings\n")
    with pytest.raises(InputError, match="with other files"):
        build(plan, TemplateWriter())
    (plan.work / "state.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        build(plan, TemplateWriter())


def test_two_processes_do_not_build_one_data_set(plan_of, facts_of):
    plan = plan_of(facts_of(40))
    plan.work.mkdir(parents=True)
    with FileLock(plan.work / ".lock"), pytest.raises(UltraEditError, match="another process"):
        build(plan, TemplateWriter())


def test_facts_that_give_nothing_say_why(plan_of):
    facts = [Fact("London", "P19", "London"), Fact("", "P19", "x")]
    plan = plan_of(facts)
    with pytest.raises(InputError, match="answer in subject: 1"):
        build(plan, TemplateWriter())
    assert not plan.work.exists()


def test_two_facts_are_enough(plan_of):
    facts = [Fact("Ada", "P19", "London"), Fact("Hamlet", "P50", "Shakespeare")]
    built = build(plan_of(facts), TemplateWriter())
    (record,) = records(built.files[0])
    check_rules(record)
