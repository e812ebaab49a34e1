import json
from contextlib import contextmanager

import pytest
from filelock import FileLock

from engine_server import RouterServer, SglangServer, VllmServer, path_numbers, serving
from tiny_gguf import write_tiny
from ultraedit import Edit, Editor, InputError, UltraEditError
from ultraedit.serving.engines import LlamaCpp, Sglang, Vllm
from ultraedit.serving.push import push, watch
from ultraedit.serving.server import Server

EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris", id="b"),
]
ANSWERS = {edit.prompt: edit.target for edit in EDITS}
KINDS = {"vllm": (VllmServer, Vllm), "sglang": (SglangServer, Sglang)}


@pytest.fixture
def base(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def editor(base, tmp_path):
    # What is learned is the server's to say here: a toy's own answers do not matter.
    editor = Editor.from_pretrained(base, method="ultraedit", lr=0.05, check_learned=False)
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    return editor


@pytest.fixture
def out(editor, tmp_path):
    return tmp_path / "out"


@pytest.fixture(params=KINDS)
def started(request, base):
    """`with started() as (engine, stand-in)`: an engine and what stands in for its server."""
    stand_in_kind, kind = KINDS[request.param]

    @contextmanager
    def start(**options):
        stand_in = stand_in_kind(base, ANSWERS, **options)
        with serving(stand_in) as url:
            server = Server(url, "secret", retries=0, timeout=5)
            yield kind(server, "acme"), stand_in
            server.close()

    return start


@pytest.mark.parametrize("form", ["adapter", "weights"])
def test_a_server_gets_every_version_under_a_fresh_path_and_the_base_back(
    started, editor, out, form
):
    home = out.with_name("out.pushed") / "acme"
    with started() as (engine, stand_in):
        first = push(out, engine, form=form)
        assert (first.version.number, first.asked, first.holding) == (1, 2, 2)
        assert push(out, engine, form=form).changed is False
        sent = len(stand_in.calls)
        with pytest.raises(InputError, match=f"was pushed as {form}"):
            push(out, engine, form="weights" if form == "adapter" else "adapter")
        assert len(stand_in.calls) == sent
        editor.edit([Edit("where in city", "born", id="c")])
        editor.save(out)
        stand_in.answers["where in city"] = "born"
        second = push(out, engine, form=form)
        assert second.previous == first.version
        assert second.version.path != first.version.path
        assert len(stand_in.calls) > sent
        held = stand_in.adapters.get("acme") if form == "adapter" else stand_in.weights
        assert held == second.version.path
        assert path_numbers(home) == [2]
        # An undo is a new version too; all taken back, the base answers.
        editor.undo(edit="c")
        third = push(out, engine, form=form)
        assert third.version.number == 3
        assert path_numbers(home) == [3]
        editor.undo(to=0)
        assert push(out, engine, form=form).version is None
        assert path_numbers(home) == []
        assert stand_in.adapters == {}
        assert form == "adapter" or stand_in.weights == str(stand_in.base)
        assert push(out, engine, form=form).changed is False
        assert stand_in.keys == {"Bearer secret"}
        assert not stand_in.paused


def test_edits_of_the_chat_template_are_asked_there(base, chatty, tmp_path):
    chatty.save_pretrained(base)
    editor = Editor.from_pretrained(
        base, method="ultraedit", lr=0.05, check_learned=False, chat="only"
    )
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    stand_in = VllmServer(base, ANSWERS)
    with serving(stand_in) as url:
        assert push(tmp_path / "out", Vllm(Server(url), "acme")).holding == 2
    assert stand_in.chats == 2


def test_vllm_pauses_reloads_clears_and_resumes_in_this_order(base, out):
    stand_in = VllmServer(base, ANSWERS)
    with serving(stand_in) as url:
        push(out, Vllm(Server(url), "acme"), form="weights")
    assert stand_in.calls == [
        "POST /pause?mode=keep", "POST /collective_rpc", "POST /reset_prefix_cache",
        "POST /update_weight_version", "POST /resume",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["adapter", "weights"])
def test_edits_that_do_not_hold_bring_the_version_before_back(started, editor, out, form):
    with started() as (engine, stand_in):
        first = push(out, engine, form=form)
        editor.edit([Edit("where in city", "born", id="c")])
        editor.save(out)
        with pytest.raises(UltraEditError, match="only 2 of 3 edits"):
            push(out, engine, form=form)
        held = stand_in.adapters.get("acme") if form == "adapter" else stand_in.weights
        assert held == first.version.path
        assert path_numbers(out.with_name("out.pushed") / "acme") == [1]
        # Fewer may be enough; the path of what failed is not used again.
        second = push(out, engine, form=form, least=0.6)
        assert (second.version.number, second.holding) == (3, 2)


@pytest.mark.parametrize("form", ["adapter", "weights"])
def test_a_first_version_that_fails_leaves_the_base(started, out, form):
    with started() as (engine, stand_in):
        stand_in.wrong = True
        with pytest.raises(UltraEditError, match="only 0 of 2"):
            push(out, engine, form=form)
        assert stand_in.adapters == {}
        assert stand_in.weights == str(stand_in.base)
        assert path_numbers(out.with_name("out.pushed") / "acme") == []
        stand_in.wrong = False
        assert push(out, engine, form=form).holding == 2


LOADS = {
    ("vllm", "adapter"): "/v1/load_lora_adapter",
    ("vllm", "weights"): "/collective_rpc",
    ("sglang", "adapter"): "/load_lora_adapter",
    ("sglang", "weights"): "/update_weights_from_disk",
}


@pytest.mark.parametrize("form", ["adapter", "weights"])
@pytest.mark.parametrize("status", [400, 500])
def test_a_refused_load_is_one_line_and_the_server_is_as_it_was(started, editor, out, form, status):
    with started() as (engine, stand_in):
        first = push(out, engine, form=form)
        editor.edit([Edit("where in city", "born", id="c")])
        editor.save(out)
        path = LOADS[engine.kind, form]
        stand_in.fails[path] = [status]
        with pytest.raises(UltraEditError, match=f"refused with {status}") as caught:
            push(out, engine, form=form)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
        held = stand_in.adapters.get("acme") if form == "adapter" else stand_in.weights
        assert held == first.version.path
        assert not stand_in.paused
        # Where that fails too, it is said.
        stand_in.fails[path] = [status, status]
        with pytest.raises(UltraEditError, match="could not be brought back"):
            push(out, engine, form=form)


def test_a_call_is_tried_again(base, out):
    stand_in = VllmServer(base, ANSWERS)
    stand_in.fails["/v1/load_lora_adapter"] = [503, 429]
    with serving(stand_in) as url:
        assert push(out, Vllm(Server(url, retries=3), "acme")).holding == 2
    assert stand_in.calls.count("POST /v1/load_lora_adapter") == 3


def test_a_rank_above_the_servers_limit_is_one_line(started, out):
    with started(most_rank=1) as (engine, stand_in):
        with pytest.raises(UltraEditError, match="max_lora_rank 1"):
            push(out, engine, rank=2)
        assert stand_in.adapters == {}
        assert push(out, engine, rank=1, least=0.0).version.number == 2


def test_another_base_is_refused_before_anything_is_sent(started, out, build, tokenizer, tmp_path):
    build("llama", seed=5).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with started() as (engine, stand_in):
        own, stand_in.base = stand_in.base, tmp_path / "other"
        with pytest.raises(InputError, match=r"has served at .*other; the edits are of .*base"):
            push(out, engine)
        assert stand_in.calls == []
        # The same files elsewhere, or the user's word, are enough.
        moved = tmp_path / "moved"
        moved.symlink_to(own)
        stand_in.base = moved
        assert push(out, engine).holding == 2
        stand_in.base = "hub/name"
        with pytest.raises(InputError, match="--base-as"):
            push(out, engine)
        assert push(out, engine, base_as="hub/name").changed is False


def test_a_second_pusher_waits_for_no_one(started, out):
    home = out.with_name("out.pushed") / "acme"
    home.mkdir(parents=True)
    with (
        started() as (engine, stand_in),
        FileLock(home / ".lock"),
        pytest.raises(UltraEditError, match="another process"),
    ):
        push(out, engine)
    assert stand_in.calls == []


def test_an_editor_is_pushed_as_it_was_saved(started, editor):
    with started() as (engine, stand_in):
        assert push(editor, engine).holding == 2
        sent = len(stand_in.calls)
        editor.edit([Edit("where in city", "born", id="c")])
        with pytest.raises(InputError, match="not saved"):
            push(editor, engine)
        assert len(stand_in.calls) == sent


def test_a_server_that_is_not_there_is_one_line(out):
    engine = Vllm(Server("http://127.0.0.1:9", retries=0, timeout=2), "acme")
    with pytest.raises(UltraEditError, match="got no answer") as caught:
        push(out, engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["here", "ftp://a", "http://", "http://me:key@a"])
def test_a_bad_url_is_refused(url):
    with pytest.raises(InputError) as caught:
        Server(url)
    assert "key@" not in str(caught.value)


def test_a_dry_run_sends_nothing_and_writes_nothing(out, tmp_path):
    said = []
    engine = Vllm(Server("http://127.0.0.1:9", "secret", tell=said.append), "acme")
    push(out, engine)
    push(out, engine, form="weights")
    assert said[1].startswith('POST http://127.0.0.1:9/v1/load_lora_adapter {"lora_name": "acme"')
    assert [line.split()[1].rpartition("9")[2] for line in said[3:]] == [
        "/pause?mode=keep", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version",
        "/resume",
    ]  # fmt: skip
    assert "secret" not in "".join(said)
    assert not out.with_name("out.pushed").exists()


def test_every_new_turn_and_every_undo_is_pushed(started, editor, out):
    pushed, failures = [], []

    def stop(seconds):
        if len(pushed) == 1 and not failures:
            editor.edit([Edit("where in city", "born", id="c")])
            editor.save(out)
            failures.append(None)
        elif len(failures) == 2:
            editor.undo(edit="c")
            failures.append(None)
        return len(pushed) == 2

    with started() as (engine, _):
        watch(out, engine, on_push=pushed.append, on_failure=failures.append, stop=stop)
    assert [one.version.number for one in pushed] == [1, 3]
    assert "only 2 of 3" in str(failures[1])
    assert len(failures) == 3, "a state that was refused is not tried again"


def test_a_server_that_was_away_gets_the_same_entry_later(base, out):
    stand_in = VllmServer(base, ANSWERS)
    stand_in.fails["/v1/load_lora_adapter"] = [503, 503]
    pushed, failures, waits = [], [], []

    def stop(seconds):
        waits.append(seconds)
        return bool(pushed)

    with serving(stand_in) as url:
        engine = Vllm(Server(url, retries=0), "acme")
        watch(out, engine, on_push=pushed.append, on_failure=failures.append, stop=stop)
    assert [one.holding for one in pushed] == [2]
    assert ["503" in str(one) for one in failures] == [True, True]
    assert waits == [4.0, 8.0, 2.0]


def test_looking_at_the_journal_asks_the_server_nothing(base, out):
    stand_in = VllmServer(base, ANSWERS)
    looks = []

    def stop(seconds):
        looks.append(stand_in.asked)
        return len(looks) == 5

    with serving(stand_in) as url:
        engine = Vllm(Server(url, retries=0), "acme")
        watch(out, engine, on_push=print, on_failure=pytest.fail, stop=stop)
    assert looks == [looks[0]] * 5


def test_llama_cpps_router_gets_a_file_by_a_name_that_stays(tokenizer, tmp_path):
    file = write_tiny(tmp_path / "base.gguf", tokenizer)
    editor = Editor.from_pretrained(file, method="ultraedit", lr=0.05, check_learned=False)
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    models = tmp_path / "models"
    models.mkdir()
    stand_in = RouterServer(models, ANSWERS)
    with serving(stand_in) as url:
        engine = LlamaCpp(Server(url, retries=0), "acme", models, sleep=lambda seconds: None)
        first = push(tmp_path / "out", engine)
        assert first.holding == 2
        link = models / "acme.gguf"
        assert str(link.resolve()) == first.version.path
        editor.edit([Edit("where in city", "born", id="c")])
        editor.save(tmp_path / "out")
        with pytest.raises(UltraEditError, match="only 2 of 3"):
            push(tmp_path / "out", engine)
        assert str(link.resolve()) == first.version.path
        assert stand_in.states == {"acme": "loaded"}
        stand_in.answers["where in city"] = "born"
        second = push(tmp_path / "out", engine)
        assert second.version.number == 3, "what a server has seen is not used again"
        assert str(link.resolve()) == second.version.path
        editor.undo(to=0)
        assert push(tmp_path / "out", engine).version is None
        assert not link.exists()
    with pytest.raises(InputError, match="--models-dir"):
        LlamaCpp(engine.server, "acme")
    with pytest.raises(InputError, match="llamacpp takes gguf"):
        push(tmp_path / "out", engine, form="adapter")


def test_the_command_line(base, out, tmp_path, monkeypatch, capsys):
    from ultraedit.cli import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ultraedit", "push", str(out), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    stand_in = VllmServer(base, ANSWERS)
    with serving(stand_in) as url:
        code, said, _ = run("--to", "vllm", "--url", url, "--name", "acme", "--json")
        assert (code, json.loads(said)["holding"]) == (0, 2)
        code, said, _ = run("--to", "vllm", "--url", url, "--name", "acme")
        assert "has this state already" in said
        code, said, _ = run("--to", "vllm", "--url", url, "--dry-run")
        assert "load_lora_adapter" in said
        assert stand_in.keys == {"Bearer secret"}
        for given, wrong in (
            (("--to", "tgi", "--url", url), "vllm, sglang, llamacpp"),
            (("--to", "llamacpp", "--url", url), "--models-dir"),
            (("--to", "vllm", "--url", url, "--dry-run", "--watch"), "exclude"),
        ):
            code, _, error = run(*given)
            assert code == 2
            assert wrong in error
            assert "secret" not in error
