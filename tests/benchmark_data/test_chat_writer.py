import json
import time

import pytest
from openai import OpenAI

from chat_server import good, serving
from ultraedit import InputError, UltraEditError
from ultraedit.benchmark_data.build import Plan, build
from ultraedit.benchmark_data.chat_writer import ChatWriter, Limits, Replies
from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.benchmark_data.triples import Source


@pytest.fixture
def writer_of(tmp_path):
    """`writer_of(url, **limits)`: over one file of replies."""
    opened = []

    def make(url, **given):
        limits = Limits(**given)
        client = OpenAI(
            api_key="secret", base_url=url, max_retries=limits.retries, timeout=limits.timeout
        )
        replies = Replies(tmp_path / "replies.db")
        opened.extend([client, replies])
        return ChatWriter(client, "m", replies, limits)

    yield make
    for one in opened:
        one.close()


def some(count):
    return [Fact(f"Subject{number}", "P19", f"Object{number}") for number in range(count)]


def test_questions_come_in_the_order_of_the_facts_and_are_paid_for_once(writer_of):
    def slow(message, number):
        time.sleep(0.02 * (number % 3))
        return good(message, number)

    with serving(slow) as (url, chat):
        writer = writer_of(url, concurrency=4, price_in=1.0, price_out=10.0)
        found = list(writer.write(some(20)))
        assert [one.prompt for one in found] == [f"What about Subject{n}?" for n in range(20)]
        assert 1 < chat.most_busy <= 4
        assert len(chat.seen) == writer.requests == 20
        assert writer.cost == pytest.approx(20 * (100 * 1.0 + 20 * 10.0) / 1e6)
        assert chat.keys == {"Bearer secret"}
        # A restart repeats no request.
        again = writer_of(url)
        assert list(again.write(some(20))) == found
        assert (again.requests, len(chat.seen)) == (0, 20)


def test_the_message_has_the_fact_and_the_relation_in_words(writer_of):
    with serving() as (url, chat):
        list(writer_of(url).write([Fact("Ada", "P19", "London")]))
        list(writer_of(url).write([Fact("Ada", "patronSaint", "London")]))
    (first, second) = (body["messages"][-1]["content"] for body in chat.seen)
    assert first == "subject: Ada\nrelation: place of birth\nanswer: London"
    assert "patron saint" in second
    assert "secret" not in json.dumps(chat.seen)


def test_a_rate_limit_is_waited_for(writer_of):
    def reply(message, number):
        return 429 if number % 2 else good(message, number)

    with serving(reply) as (url, chat):
        found = list(writer_of(url, concurrency=1).write(some(4)))
        assert all(isinstance(one, Questions) for one in found)
        assert len(chat.seen) == 8


def test_so_many_requests_a_minute(writer_of):
    with serving() as (url, _):
        began = time.monotonic()
        list(writer_of(url, per_minute=1200).write(some(8)))
        assert time.monotonic() - began >= 7 * 0.05


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("no JSON at all", "malformed reply"),
        ('{"question": "What about Subject0?"}', "malformed reply"),
        ('{"question": 3, "rephrase": null}', "malformed reply"),
        ('["question"]', "malformed reply"),
        ("", "malformed reply"),
        (b'{"object": "chat.completion", "choices": []}', "malformed reply"),
        (
            '{"question": "Is Subject0 Object0?", "rephrase": "Subject0 is what?"}',
            "answer in question",
        ),
        ('{"question": "Where?", "rephrase": "Subject0 is what?"}', "subject not in question"),
        ('{"question": "Subject0?", "rephrase": "subject0?"}', "rephrase equals prompt"),
    ],
)
def test_what_keeps_no_rule_is_asked_for_again_and_then_refused(writer_of, bad, said):
    with serving(lambda message, number: bad) as (url, chat):
        assert list(writer_of(url, attempts=3).write(some(1))) == [said]
        assert len(chat.seen) == 3
    with serving(lambda message, number: bad if number == 1 else good(message, number)) as served:
        writer = writer_of(served[0])
        writer.model = "another"
        assert isinstance(next(writer.write(some(1))), Questions)


def test_text_around_the_reply_is_passed_over(writer_of):
    with serving(lambda *given: f"Sure!\n```json\n{good(*given)}\n```") as (url, _):
        assert isinstance(next(writer_of(url).write(some(1))), Questions)


@pytest.mark.parametrize(
    ("reply", "said", "requests"),
    [(401, "refused with 401", 1), (503, "refused with 503", 3), (5.0, "did not answer", 3)],
)
def test_an_endpoint_that_does_not_answer_ends_the_build_in_one_line(
    writer_of, reply, said, requests
):
    with serving(lambda message, number: reply) as (url, chat):
        writer = writer_of(url, concurrency=1, retries=2, timeout=0.3)
        with pytest.raises(UltraEditError, match=said) as caught:
            list(writer.write(some(1)))
        assert len(chat.seen) == requests
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_the_limit_of_costs_ends_the_build_and_a_higher_one_goes_on(writer_of, tmp_path):
    table = tmp_path / "facts.tsv"
    lines = [f"{one.subject}\t{one.relation}\t{one.object}\n" for one in some(30)]
    table.write_text("subject\trelation\tobject\n" + "".join(lines))
    plan = Plan(Source.of(table), tmp_path / "data.jsonl")
    limits = {"price_in": 1000.0, "price_out": 0.0, "concurrency": 2}
    with serving() as (url, chat):
        with pytest.raises(UltraEditError, match="limit of 1 dollars"):
            build(plan, writer_of(url, cost=1.0, **limits))
        asked = len(chat.seen)
        assert 10 <= asked <= 14
        assert not plan.out.exists()
        built = build(plan, writer_of(url, cost=10.0, **limits))
        assert len(chat.seen) == 30
    assert built.tally.records == 26


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "replies.db").write_text("not a database, " * 100)
    with pytest.raises(InputError, match="replies"):
        Replies(tmp_path / "replies.db")
