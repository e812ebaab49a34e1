import subprocess
import sys
from contextlib import ExitStack

import pytest

from ultraedit.errors import InputError, UltraEditError
from ultraedit.storage import lock
from unrecorded import write

HOLDER = """
import sys
from ultraedit.storage import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """`holder(out)`: another process that holds the lock until it is let go or killed."""
    with ExitStack() as stack:

        def hold(out):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLDER, str(out)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == "held\n"
            return process

        yield hold


def test_a_second_process_is_refused_until_the_first_ends(holder, tmp_path):
    out = tmp_path / "out"
    process = holder(out)
    with pytest.raises(UltraEditError, match="out is in use by another process"), lock(out):
        pass
    process.stdin.close()
    process.wait()
    with lock(out):
        assert (out / "ultraedit" / "lock").is_file()


def test_a_killed_process_leaves_no_lock(holder, tmp_path):
    process = holder(tmp_path / "out")
    process.kill()
    process.wait()
    with lock(tmp_path / "out"):
        pass


def test_a_locked_folder_can_be_written(build, session, modules, tokenizer, tmp_path):
    model = build("llama")
    out = tmp_path / "new" / "out"
    editing = session(model, modules["llama"])
    with lock(out):
        for _ in range(2):
            write(out, editing.turn(), model=model, tokenizer=tokenizer, source=None)
    with lock(out):
        pass


def test_only_what_could_be_written_can_be_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"), lock(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="is not empty"), lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UltraEditError, match="Not a directory"), lock(tmp_path / "file" / "out"):
        pass


def test_errors_of_the_callers_own_are_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError), lock(tmp_path / "out"):
        (tmp_path / "not there").read_text()
