import json
import math
from dataclasses import replace

import pytest

from ultraedit.comparison.result import Cost, Result
from ultraedit.comparison.turns import TurnRecord

TURNS = [
    TurnRecord(2, 2, 5, 3.0, 900, 500, 30),
    TurnRecord(2, 1, 1, 0.5, 700, 500, 40),
    TurnRecord(1, 0, 1, 0.5, None, 650, 50),
]


def test_cost_of_turns():
    cost = Cost.of(TURNS)
    assert (cost.edits, cost.turns, cost.learned, cost.passes) == (5, 3, 3, 7)
    assert (cost.seconds, cost.seconds_per_edit) == (4.0, 0.8)
    assert cost.first_turn_seconds == 3.0
    assert cost.later_seconds_per_edit == pytest.approx((0.25 + 0.5) / 2)
    assert (cost.peak_bytes, cost.loaded_bytes, cost.memory_bytes) == (900, 500, 400)
    assert cost.kept_bytes_per_edit == 10


def test_cost_where_little_is_known():
    cost = Cost.of([TurnRecord(2, 0, 1, 1.0, None, None, 0)])
    assert cost.memory_bytes is None
    assert cost.later_seconds_per_edit is None


def test_json_and_back(made_up):
    result = made_up(ft=(0.9, 0.8)).results["ft"]
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert Result.of_json(content) == result
    assert content["cost"]["seconds_per_edit"] == 0.05
    assert content["report"]["mean"] == result.report.mean()


def test_what_is_not_finite_is_null(made_up):
    result = made_up(ft=(0.9, math.nan)).results["ft"]
    strange = replace(
        result, run=replace(result.run, settings={"lr": math.inf, "list": [math.nan]})
    )
    content = json.loads(json.dumps(strange.to_json(), allow_nan=False))
    assert content["settings"] == {"lr": None, "list": [None]}
    assert content["report"]["after"]["efficacy"]["token_accuracy"] is None
