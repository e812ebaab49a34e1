import json
import re

import pytest

from chat_server import serving


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "facts.tsv"
    lines = [f"Subject{n}\tP19\tObject{n % 7}\n" for n in range(60)]
    path.write_text("subject\trelation\tobject\n" + "".join(lines))
    return path


def test_from_a_table_to_records_that_can_be_edited(run_here, table, tmp_path):
    out = tmp_path / "data.jsonl"
    summary = json.loads(run_here("bench-build", table, "-o", out, "--json").stdout)
    assert summary["records"] == len(out.read_text().splitlines()) == 52
    assert summary["facts"] == 60
    assert summary["refused"] == {"held out for locality": 8}
    assert summary["files"] == [str(out)]
    said = run_here("edit", "demo", out, "--method", "ultraedit", "--dry-run", "--json")
    assert json.loads(said.stdout)["edits"] == 52
    again = run_here("bench-build", table, "-o", out)
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_what_is_there_is_refused_before_an_endpoint_is_asked(
    run_here, table, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    out = tmp_path / "data.jsonl"
    out.write_text("mine")
    with serving() as (url, chat):
        done = run_here(
            "bench-build", table, "-o", out, "--writer", "chat", "--chat-model", "m",
            "--base-url", url,
        )  # fmt: skip
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (out.read_text(), chat.seen) == ("mine", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "facts.tsv"]


def test_through_an_endpoint(run_here, table, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving() as (url, chat):
        done = run_here(
            "bench-build", table, "-o", tmp_path / "set", "--writer", "chat", "--chat-model", "m",
            "--base-url", url, "--format", "jsonl", "--price-in", "1", "--json",
        )  # fmt: skip
    summary = json.loads(done.stdout)
    assert summary["requests"] == len(chat.seen) == 60
    assert summary["cost"] == pytest.approx(60 * 100 / 1e6)
    assert chat.keys == {"Bearer secret"}
    written = "".join(path.read_text() for path in (tmp_path / "set").rglob("*.*"))
    assert "secret" not in written + done.stdout + done.stderr
    assert re.search("m, a chat model", written)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--targets", "false"], "--targets is true or counterfactual"),
        (["--format", "csv"], "--format is"),
        (["--max-cost", "1"], "--price-in"),
        (["--writer", "chat", "--base-url", "http://127.0.0.1:9"], "--chat-model"),
        (["--writer", "chat", "--chat-model", "m", "--api-key", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--writer", "no/such/model"], "no/such/model"),
    ],
)
def test_bad_options_are_one_line(run_here, table, tmp_path, given, said):
    done = run_here("bench-build", table, "-o", tmp_path / "data.jsonl", *given)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.tsv"]
