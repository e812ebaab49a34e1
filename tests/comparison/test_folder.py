import os
import subprocess
import sys

import pytest

from ultraedit import InputError, UltraEditError
from ultraedit.comparison.folder import Folder, as_text, held, read_object, write_text


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys\nfrom ultraedit.comparison.folder import held\n"
        "with held(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, tmp_path / "out"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UltraEditError, match="out is in use by another process") as caught:
            held(tmp_path / "out").__enter__()
        assert caught.value.exit_code == 1
        other.kill()
    with held(tmp_path / "out"):
        pass


def test_a_run_at_work_holds_the_comparison(tmp_path):
    """A run whose comparison was killed is still at work."""
    with held(tmp_path / "out") as folder:
        write_text(folder.summary, "{}")
        home = folder.run("ft")
        home.path.mkdir(parents=True)
    code = (
        "import sys\nfrom pathlib import Path\nfrom ultraedit.storage.lock import hold\n"
        "with hold(Path(sys.argv[1]), Path()): print('held', flush=True); input()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, home.lock],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout.readline() == "held\n"
    with pytest.raises(UltraEditError, match="in use"), held(tmp_path / "out"):
        pass
    run.communicate("\n")
    with held(tmp_path / "out"):
        pass


def test_where_nothing_was_written_nothing_is_left(tmp_path):
    with held(tmp_path / "new" / "out"):
        pass
    assert not (tmp_path / "new" / "out").exists()
    (tmp_path / "empty").mkdir()
    with held(tmp_path / "empty"):
        pass
    assert list((tmp_path / "empty").iterdir()) == []


def test_only_a_comparison_is_gone_on_with(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, words in (("", "no comparison"), ("file", "is a file"), ("link", "link to nothing")):
        with pytest.raises(InputError, match=words), held(tmp_path / name):
            pass
    (tmp_path / "comparison.json").write_text("{}")
    with held(tmp_path) as folder:
        assert folder.run("ft").turns == tmp_path / "runs" / "ft" / "turns.jsonl"


def test_what_a_crash_left_of_the_first_file_is_no_obstacle(tmp_path):
    (tmp_path / ".tmp-comparison.json").write_text("{")
    (tmp_path / ".lock").touch()
    with held(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UltraEditError, match="cannot write"), held(tmp_path / "file" / "out"):
        pass
    with pytest.raises(UltraEditError, match="cannot write .*file/x"):
        write_text(tmp_path / "file" / "x", "")


def test_json_that_was_altered_is_named(tmp_path):
    folder = Folder(tmp_path)
    for text, words in (("{", "no JSON"), ("[]", "no object")):
        folder.summary.write_text(text)
        with pytest.raises(InputError, match=words):
            read_object(folder.summary)
    os.unlink(folder.summary)
    with pytest.raises(InputError, match="cannot be read"):
        read_object(folder.summary)
    with pytest.raises(ValueError):
        as_text({"nan": float("nan")})
