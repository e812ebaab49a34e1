import json
import re
import threading
from types import SimpleNamespace
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ultraedit.errors import InputError, UltraEditError
from ultraedit.service import keys as module
from ultraedit.service.errors import ApiError, install
from ultraedit.service.keys import ROLES, SECRET, SET_NAME, Key, Keys, authorised


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(tmp_path, clock):
    return Keys(tmp_path / "data", clock)


def status_of(keys, secret):
    try:
        return keys.of(secret)
    except ApiError as error:
        return error.status


def test_a_key_is_told_by_its_secret_alone(keys, tmp_path):
    secret = keys.create("ada@home", "editor", ["team-a", "team-b"])
    other = keys.create("bob", "admin", ["*"])
    assert SECRET.fullmatch(secret)
    assert secret != other
    assert keys.of(secret) == Key("ada@home", "editor", ("team-a", "team-b"))
    assert keys.of(other) == Key("bob", "admin", ("*",))
    assert keys.list() == (keys.of(secret), keys.of(other))
    assert Keys(tmp_path / "data").list() == keys.list()


@pytest.mark.parametrize("change", [str.upper, lambda s: s[:-1], lambda s: s + "a", lambda s: ""])
def test_anything_but_the_secret_is_refused(keys, change):
    secret = keys.create("ada", "reader", ["*"])
    with pytest.raises(ApiError) as refused:
        keys.of(change(secret))
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}


def test_every_hash_is_compared(keys, monkeypatch):
    secrets = [keys.create(f"k{i}", "reader", ["*"]) for i in range(4)]
    compared = []
    plain = module.hmac.compare_digest
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: compared.append(a) or plain(a, b)
    )
    for secret in secrets:
        compared.clear()
        keys.of(secret)
        assert len(compared) == 4


def test_the_file_has_no_secret_and_is_the_owners(keys, tmp_path):
    secret = keys.create("ada", "reader", ["*"])
    path = tmp_path / "data" / "keys.json"
    assert secret[3:] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    keys.revoke("ada")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_revoked_key_is_refused_and_its_name_is_free(keys):
    secret = keys.create("ada", "reader", ["*"])
    kept = keys.create("bob", "reader", ["*"])
    keys.revoke("ada")
    assert status_of(keys, secret) == 401
    assert keys.of(kept).name == "bob"
    with pytest.raises(InputError, match="no key named 'ada'"):
        keys.revoke("ada")
    again = keys.create("ada", "editor", ["*"])
    assert status_of(keys, secret) == 401
    assert keys.of(again).role == "editor"


def test_the_first_key_is_made_once(keys):
    secret = keys.create_first()
    assert keys.of(secret) == Key("admin", "admin", ("*",))
    assert keys.create_first() is None
    keys.revoke("admin")
    assert keys.create_first() is None


@pytest.mark.parametrize(
    ("name", "role", "sets", "said"),
    [
        ("", "reader", ["*"], "name"),
        ("a b", "reader", ["*"], "name"),
        ("a\n", "reader", ["*"], "name"),
        ("a" * 65, "reader", ["*"], "name"),
        ("ada", "owner", ["*"], "reader, editor, admin"),
        ("ada", "reader", [], "no edit set"),
        ("ada", "reader", ["Team"], "'Team'"),
        ("ada", "reader", ["a..b"], "'a..b'"),
        ("ada", "admin", ["team-a"], "all edit sets"),
    ],
)
def test_what_makes_no_key_is_refused(keys, name, role, sets, said):
    with pytest.raises(InputError, match=re.escape(said)):
        keys.create(name, role, sets)
    assert keys.list() == ()


def test_sets_are_kept_once(keys):
    keys.create("ada", "reader", ["b", "a", "b"])
    keys.create("bob", "reader", ["a", "*"])
    assert [key.sets for key in keys.list()] == [("b", "a"), ("*",)]


def test_names_are_unique(keys):
    secret = keys.create("ada", "reader", ["*"])
    with pytest.raises(InputError, match="'ada' already"):
        keys.create("ada", "editor", ["*"])
    assert keys.of(secret).role == "reader"


def test_another_process_is_followed_within_a_second(keys, tmp_path, clock):
    mine = keys.create("ada", "reader", ["*"])
    other = Keys(tmp_path / "data", clock)
    theirs = other.create("bob", "reader", ["*"])
    other.revoke("ada")
    clock.now += 0.9
    assert (keys.of(mine).name, status_of(keys, theirs)) == ("ada", 401)
    clock.now += 0.1
    assert (status_of(keys, mine), keys.of(theirs).name) == (401, "bob")


def test_nobody_has_a_key_once_the_file_is_gone(keys, tmp_path, clock):
    secret = keys.create("ada", "reader", ["*"])
    (tmp_path / "data" / "keys.json").unlink()
    clock.now += 1
    assert status_of(keys, secret) == 401


HASH = "0" * 64
ENTRY = {"name": "ada", "role": "reader", "sets": ["*"], "sha256": HASH}
DAMAGED = [
    "", "{", "[]", '{"keys": 5}', '{"keys": [5]}', '{"keys": [{}]}', b"\xff",
    json.dumps({"keys": [ENTRY, ENTRY]}),
    *(json.dumps({"keys": [ENTRY | change]}) for change in (
        {"role": "god"}, {"role": []}, {"sets": []}, {"sets": 5}, {"sets": ["A"]}, {"name": 5},
        {"sha256": "0"}, {"sha256": None},
    )),
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "keys.json"
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match=r"keys\.json is damaged") as refused:
        Keys(tmp_path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_file_that_others_have_access_to_is_refused(keys, tmp_path, clock, mode):
    secret = keys.create("ada", "reader", ["*"])
    path = tmp_path / "data" / "keys.json"
    path.chmod(mode)
    with pytest.raises(InputError, match=rf"chmod 600 {path}$"):
        Keys(tmp_path / "data")
    clock.now += 1
    assert status_of(keys, secret) == 500
    path.chmod(0o600)
    assert keys.of(secret).name == "ada"


def test_while_the_file_is_damaged_nobody_gets_in_and_no_path_gets_out(
    keys, tmp_path, clock, caplog
):
    secret = keys.create("ada", "reader", ["*"])
    path = tmp_path / "data" / "keys.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    clock.now += 1
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            keys.of(secret)
        assert (refused.value.status, refused.value.type) == (500, "api_error")
        assert str(tmp_path) not in refused.value.message
    assert str(path) in caplog.text
    with pytest.raises(InputError):
        keys.create("bob", "reader", ["*"])
    assert path.read_bytes() == whole[:-9]
    path.write_bytes(whole)
    assert keys.of(secret).name == "ada"


def test_a_key_that_cannot_be_saved_is_none(keys, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    kept = keys.create("ada", "reader", ["*"])
    with monkeypatch.context() as patch:
        patch.setattr("ultraedit.storage.atomic.os.replace", full)
        with pytest.raises(UltraEditError, match="No space left"):
            keys.create("bob", "reader", ["*"])
    assert keys.list() == (keys.of(kept),)
    assert keys.create("bob", "reader", ["*"])


def test_no_change_of_several_at_once_is_lost(tmp_path):
    failures = []

    def work(number):
        keys = Keys(tmp_path)
        try:
            for step in range(3):
                keys.create(f"k{number}.{step}", "reader", ["*"])
            keys.revoke(f"k{number}.0")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    names = {key.name for key in Keys(tmp_path).list()}
    assert names == {f"k{number}.{step}" for number in range(4) for step in (1, 2)}


def test_a_lock_that_stays_taken_is_one_clear_line(keys, tmp_path, monkeypatch):
    keys.create("ada", "reader", ["*"])
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with (
        module.FileLock(tmp_path / "data" / "keys.json.lock"),
        pytest.raises(UltraEditError, match=r"keys\.json is in use by another process"),
    ):
        keys.revoke("ada")


ROLE = st.sampled_from(ROLES)
NAMES = st.sampled_from(["a", "b", "c"])
HOLDERS = st.builds(Key, st.just("ada"), ROLE, st.sets(NAMES | st.just("*"), min_size=1).map(tuple))


@given(HOLDERS, ROLE, NAMES)
def test_a_role_includes_the_lesser_ones_in_its_own_sets(key, role, name):
    rank = {"reader": 1, "editor": 2, "admin": 3}
    mine = key.role == "admin" or "*" in key.sets or name in key.sets
    assert key.may(role) == (rank[key.role] >= rank[role])
    assert key.may(role, name) == (key.may(role) and mine)


@given(
    st.text(st.sampled_from("ab0-_.A/\n~"), max_size=8) | st.text("a.", min_size=60, max_size=66)
)
@example("a" * 63)
@example("a" * 64)
@example("a\n")
def test_set_names(name):
    wanted = (
        1 <= len(name) <= 63
        and name[0] in "ab0"
        and set(name) <= set("ab0-_.")
        and ".." not in name
    )
    for match in (SET_NAME.fullmatch, SET_NAME.match, SET_NAME.search):
        assert bool(match(name)) == wanted


@pytest.fixture
def client(keys):
    app = FastAPI()
    install(app)
    app.state.service = SimpleNamespace(keys=keys)

    @app.get("/me")
    def me(key: Annotated[Key, Depends(authorised("reader"))]):
        return key.name

    @app.post("/sets")
    def create(key: Annotated[Key, Depends(authorised("admin"))]):
        return key.name

    for method, role in {"GET": "reader", "POST": "editor", "DELETE": "admin"}.items():

        def touch(set: str, key: Annotated[Key, Depends(authorised(role))]):
            return key.name

        app.add_api_route("/sets/{set}", touch, methods=[method])
    return TestClient(app)


def ask(client, secret, method, path):
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return client.request(method, path, headers=headers)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic ue-x", "ue-x", "Bearer ue-\xe9", "Bearer x y"]
)
def test_a_request_without_a_valid_key_is_401(client, keys, header):
    keys.create("ada", "admin", ["*"])
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = client.get("/me", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_may_be_written_in_any_case(client, keys, scheme):
    secret = keys.create("ada", "reader", ["team-a"])
    assert client.get("/me", headers={"Authorization": scheme + secret}).json() == "ada"


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("reader", [200, 403, 403, 403]),
        ("editor", [200, 200, 403, 403]),
        ("admin", [200, 200, 200, 200]),
    ],
)
def test_routes_take_a_role(client, keys, role, allowed):
    secret = keys.create("ada", role, ["*"] if role == "admin" else ["team-a"])
    calls = [(method, "/sets/team-a") for method in ("GET", "POST", "DELETE")]
    answers = [ask(client, secret, *call) for call in [*calls, ("POST", "/sets")]]
    assert [answer.status_code for answer in answers] == allowed
    for answer in answers:
        if answer.status_code == 403:
            assert answer.json()["error"]["type"] == "permission_error"
            assert role in answer.json()["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_set_of_others_looks_as_if_it_were_not_there(client, keys, method):
    secret = keys.create("ada", "editor", ["team-a"])
    response = ask(client, secret, method, "/sets/team-b")
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "no edit set 'team-b'", "type": "not_found_error", "param": "set", "code": None,
    }  # fmt: skip
    assert response.json()["error"] == module.no_set("team-b").to_dict()


@pytest.mark.parametrize("name", ["..", "a..b", "Team", "%00", "a%0A"])
def test_what_is_no_name_of_a_set_is_a_set_that_is_not_there(client, keys, name):
    secret = keys.create("root", "admin", ["*"])
    assert ask(client, secret, "GET", f"/sets/{name.replace('..', '%2E%2E')}").status_code == 404


def test_the_documentation_says_that_a_key_is_needed(client):
    described = client.get("/openapi.json").json()
    assert described["paths"]["/me"]["get"]["security"] == [{"HTTPBearer": []}]
