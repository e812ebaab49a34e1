import random

import pytest

from ultraedit.evaluation.report import Report, wilson


@pytest.mark.parametrize(
    ("share", "count", "interval"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    [
        (81 / 263, 263, (0.2553, 0.3662)),
        (15 / 148, 148, (0.0624, 0.1605)),
        (0.0, 20, (0.0, 0.1611)),
        (1 / 29, 29, (0.0061, 0.1718)),
    ],
)
def test_intervals_as_published(share, count, interval):
    assert wilson(share, count) == pytest.approx(interval, abs=5e-5)


def test_the_interval_of_a_sample_holds_the_mean_of_all():
    chance = random.Random(1)
    print("seed 1")
    everything = [chance.choice((0.0, 0.25, 1.0, 1.0)) for _ in range(20_000)]
    mean = sum(everything) / len(everything)
    held = 0
    for _ in range(300):
        drawn = chance.sample(everything, 200)
        low, high = wilson(sum(drawn) / 200, 200)
        held += low <= mean <= high
    assert held >= 0.93 * 300


def test_a_report_has_them_for_every_score():
    report = Report(4, {"efficacy": 4}, {}, {"efficacy": {"token_accuracy": 1.0}})
    assert report.to_dict()["intervals"] == {"efficacy": {"token_accuracy": wilson(1.0, 4)}}
    assert report.intervals()["efficacy"]["token_accuracy"][1] == pytest.approx(1.0)
