from dataclasses import replace

from ultraedit.comparison.formatting import perplexity, seconds, share, size
from ultraedit.comparison.page import page
from ultraedit.comparison.table import costs, every_score, scores


def test_numbers_as_people_read_them():
    assert [seconds(v) for v in (1234.5, 99.96, 12.34, 9.996, 1.0, 0.9999, 0.0123, 4.2e-5)] == [
        "1234 s", "100 s", "12.3 s", "10.0 s", "1.00 s", "1000 ms", "12.3 ms", "0.04 ms",
    ]  # fmt: skip
    assert [size(v) for v in (0, 12.4, 999.6, 1234, 45_600_000, 7e9, 2e12, None)] == [
        "0 B", "12 B", "1.00 kB", "1.23 kB", "45.6 MB", "7.00 GB", "2.00 TB", "–",
    ]  # fmt: skip
    assert [share(v) for v in (0.12345, None)] == ["0.123", "–"]
    assert [perplexity(v) for v in (12.345, 1.5e7, None)] == ["12.35", "1.50e+07", "not finite"]


def test_a_line_per_run_and_the_unedited_model_first(made_up):
    comparison = made_up(ft=(0.75, 0.5), ft_at_once=(1.0, 0.25))
    table = scores(comparison)
    assert table.headers == ("method", "efficacy", "rephrase", "locality", "mean")
    assert table.rows == (
        ("unedited", "0.125 / 0.062", "0.125 / 0.031", "1.000 / 0.500", "0.417 / 0.198"),
        ("ft", "0.500 / 0.250", "0.500 / 0.125", "0.750 / 0.375", "0.583 / 0.250"),
        ("ft (all at once)", "0.250 / 0.125", "0.250 / 0.062", "1.000 / 0.500", "0.500 / 0.229"),
    )
    table = costs(comparison)
    assert table.headers == (
        "method", "learned", "time per edit", "first turn", "memory", "kept per edit",
    )  # fmt: skip
    assert table.rows[0] == ("unedited", "–", "–", "–", "–", "–")
    assert table.rows[1] == ("ft", "0.950", "50.0 ms", "1.50 s", "2.00 MB", "100 B")


def test_failed_and_unfinished_runs_are_lines_too(made_up):
    comparison = made_up(failures={"rome": "a | b"}, unfinished=["memit"], ft=(0.75, 0.5))
    assert scores(comparison).rows[2] == ("rome", "failed: a | b", "–", "–", "–")
    assert scores(comparison, reasons=False).rows[2][1] == "failed"
    assert scores(comparison).rows[3][1] == "not finished"
    assert "failed: a \\| b" in scores(comparison).markdown()
    none = made_up(failures={"rome": "no"})
    assert scores(none).rows == (("rome", "failed: no", "–"),)
    assert len(scores(none).beside(costs(none)).rows[0]) == len(
        scores(none).beside(costs(none)).headers
    )


def test_what_was_measured_decides_the_columns(made_up):
    comparison = made_up(ft=(0.75, 0.5), grace=(1.0, 1.0))
    results = dict(comparison.results)
    routed = {
        kind: {**found, "routed": number / 4, "generation": 0.5}
        for number, (kind, found) in enumerate(results["grace"].report.after.items())
    }
    more = {**routed, "multihop": {"token_accuracy": 0.5, "exact_match": 0.25}}
    report = replace(
        results["grace"].report, after=more, perplexity={"before": 10.0, "after": None}
    )
    results["grace"] = replace(results["grace"], report=report)
    comparison = replace(comparison, results=results)
    table = scores(comparison)
    assert table.headers[4] == "multihop"
    assert table.rows[1][4] == "–", "nothing of the kind was asked there"
    assert table.rows[2][1] == "1.000 / 0.500 / 0.500"
    assert table.rows[2][3] == "1.000 / 0.500", "locality is agreement"
    table = costs(comparison)
    assert (table.headers[1], table.headers[-1]) == ("routed", "perplexity")
    assert [row[1] for row in table.rows] == ["–", "–", "0.00 / 0.25 / 0.50"]
    assert [row[-1] for row in table.rows] == ["–", "–", "not finite"]
    assert "side memory" in page(comparison, None)


def test_the_unedited_model_routes_nothing(made_up):
    comparison = made_up(grace=(1.0, 1.0))
    result = comparison.results["grace"]
    before = {kind: {**found, "routed": 0.0} for kind, found in result.report.before.items()}
    told = replace(result, report=replace(result.report, before=before))
    scores = replace(comparison, results={"grace": told}).to_json()["unedited"]["scores"]
    assert scores == result.report.before


def test_every_score_has_the_columns_of_evaluate(made_up):
    table = every_score(made_up(ft=(0.75, 0.5)))
    assert table.headers == (
        "method", "question", "cases", "token", "exact", "agreement", "agreement exact",
    )  # fmt: skip
    assert table.rows[-1] == ("ft", "locality", "30", "0.500", "0.250", "0.750", "0.375")
    assert table.rows[-3] == ("ft", "efficacy", "40", "0.500", "0.250", "–", "–")
    assert len(table.rows) == 6


def test_markdown_has_as_many_cells_as_columns(made_up):
    comparison = made_up(failures={"rome": "no"}, ft=(0.75, 0.5))
    lines = scores(comparison).beside(costs(comparison)).markdown().splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {11}


def test_the_page_says_what_it_is_of(made_up):
    comparison = made_up(ft=(0.75, 0.5), ft_at_once=(1.0, 0.25))
    text = page(comparison, "comparison.svg")
    for words in (
        "base: `demo`, weights `abababababab`", "40 of `facts.jsonl`, in turns of 20",
        "ultraedit compare demo facts.jsonl", "a processor (cpu, 1 thread), float32",
        "![Efficacy against locality](comparison.svg)", "2 turns, 4 passes", "all at once",
    ):  # fmt: skip
        assert words in text
    assert "no picture" not in text
    assert "all at once" not in page(made_up(ft=(0.75, 0.5)), "comparison.svg")
    assert "There is no picture" in page(comparison, None)
