"""`ultraedit demo` on the embedded model; the corrections that a real one gets."""

import json

import pytest
from typer.testing import CliRunner

from ultraedit.cli.app import build_app
from ultraedit.cli.demo import statement
from ultraedit.data import read_cases
from ultraedit.demo import CORRECTIONS_FILE


@pytest.fixture(scope="module")
def shown():
    done = CliRunner().invoke(build_app(), ["demo", "--model", "demo", "--edits", "3", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_it_says_which_model_and_what_changed(shown):
    assert shown["model"] == "demo"
    assert shown["edits"] == shown["learned"] == 3
    assert len(shown["examples"]) == 3
    for rows in shown["examples"]:
        edited = next(row for row in rows if row["kind"] == "edited")
        assert edited["before"] != edited["after"]
    # The embedded model has no chat template to leave.
    assert shown["plain"] == {"generation": None, "answers": []}


def test_the_last_edit_is_taken_back_and_the_one_before_stays(shown):
    undone, kept = shown["undone"]
    assert (undone["kind"], kept["kind"]) == ("undone", "edited")
    assert undone["before"] != undone["after"]
    assert kept["before"] == kept["after"]


def test_it_also_prints_it():
    done = CliRunner().invoke(build_app(), ["demo", "--model", "demo", "--edits", "1"])
    assert done.exit_code == 0
    assert "Facts of demo changed: 1," in done.stdout


def test_every_correction_is_a_question_with_a_rewording_a_statement_and_a_neighbour():
    cases = list(read_cases(CORRECTIONS_FILE))
    assert len(cases) == 12 == len({case.edit.id for case in cases})
    for case in cases:
        assert [probe.kind for probe in case.probes] == ["rephrase", "rephrase", "locality"]
        assert case.edit.prompt.endswith("?")
        assert case.probes[0].prompt.endswith("?")
        assert not statement(case).endswith("?")
