import json

import pytest
from typer.testing import CliRunner

from ultraedit.cli.keys import keys
from ultraedit.errors import InputError
from ultraedit.service.audit import Audit
from ultraedit.service.keys import SECRET, Key, Keys


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def run(data):
    def invoke(*arguments):
        done = CliRunner().invoke(keys, [*arguments, "--data", str(data)])
        if isinstance(done.exception, Exception):
            raise done.exception
        return done

    return invoke


def test_the_output_is_the_key_alone(run, data):
    done = run("create", "ada", "--role", "editor", "--set", "team-a", "--set", "team-b")
    assert SECRET.fullmatch(done.stdout.removesuffix("\n"))
    assert "cannot be shown again" in done.stderr
    secret = done.stdout.strip()
    assert Keys(data).of(secret) == Key("ada", "editor", ("team-a", "team-b"))


def test_an_admin_needs_no_set_and_everybody_else_does(run, data):
    about = json.loads(run("create", "root", "--role", "admin", "--json").stdout)
    assert Keys(data).of(about.pop("key")).may("admin", "any")
    assert about == {"name": "root", "role": "admin", "sets": ["*"]}
    with pytest.raises(InputError, match="--set"):
        run("create", "ada", "--role", "reader")
    assert [key.name for key in Keys(data).list()] == ["root"]


def test_list_shows_no_secret(run):
    secret = run("create", "ada", "--role", "reader", "--set", "*").stdout.strip()
    table = run("list").stdout
    assert "ada" in table
    assert "reader" in table
    listed = run("list", "--json").stdout
    assert json.loads(listed) == [{"name": "ada", "role": "reader", "sets": ["*"]}]
    assert secret[3:] not in table + listed


def test_revoke(run, data):
    run("create", "ada", "--role", "reader", "--set", "*")
    assert "ada" in run("revoke", "ada").stdout
    assert Keys(data).list() == ()
    with pytest.raises(InputError, match="no key named 'ada'"):
        run("revoke", "ada")


def test_changes_are_in_the_audit_log(run, data):
    secret = run("create", "ada", "--role", "reader", "--set", "team-a").stdout.strip()
    run("revoke", "ada")
    path = data / "audit.jsonl"
    revoked, created = Audit(path).read()
    assert (revoked["action"], revoked["detail"]) == ("keys.revoke", {"name": "ada"})
    assert created["action"] == "keys.create"
    assert created["detail"] == {"name": "ada", "role": "reader", "sets": ["team-a"]}
    assert "@" in created["author"]
    assert secret[3:] not in path.read_text()


@pytest.mark.parametrize("arguments", [["create", "ada"], ["revoke"]])
def test_what_is_missing_is_a_usage_error(run, arguments):
    assert run(*arguments).exit_code == 2
