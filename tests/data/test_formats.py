from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ultraedit.data import formats
from ultraedit.data.formats import read_records
from ultraedit.errors import InputError

Save = Callable[..., Path]

RECORDS = [
    {"prompt": "Die Brücke von Ølm heißt", "target": "Łangbro 🌉", "probes": [{"kind": "a"}]},
    {"prompt": 'A "quoted", [bracketed]\nsecond line', "target": ["x", "y"], "probes": []},
]


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv", "r.parquet", "R.JSONL", "a.b.json"])
def test_every_format_gives_the_same_records(save: Save, name: str) -> None:
    records = RECORDS
    if name.endswith(".parquet"):  # a parquet column has one type
        records = [{**record, "target": list(record["target"])} for record in RECORDS]
    assert list(read_records(save(name, records))) == [(1, records[0]), (2, records[1])]


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv"])
def test_gzip(save: Save, tmp_path: Path, name: str) -> None:
    plain = save(name, RECORDS)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_records(packed)) == list(read_records(plain))


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_byte_order_marks_and_line_ends(save: Save, name: str, bom: bytes, newline: bytes) -> None:
    records = [{"prompt": "Où est Zoé ?", "target": "à Ys"}, {"prompt": "p", "target": "t"}]
    data = save(name, records).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", newline)
    assert [r for _, r in read_records(save(name, bom + data))] == records


def test_blank_lines_are_no_records(save: Save) -> None:
    path = save("r.jsonl", '\n{"a": 1}\n  \n\r\n{"a": 2}')
    assert list(read_records(path)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_line_separators_inside_text_do_not_end_a_jsonl_record(save: Save) -> None:
    path = save("r.jsonl", '{"a": "x\u2028y\u0085z"}\n')
    assert list(read_records(path)) == [(1, {"a": "x\u2028y\u0085z"})]


def test_csv_cells(save: Save) -> None:
    header = "text,list,probes,object,empty,nan,number,bracket\n"
    row = 'a,"[""x"", ""y""]","[{""kind"": ""k""}]","{""s"": ""t""}",,nan,007,"[sic] yes"\n'
    assert list(read_records(save("r.csv", header + "\n" + row))) == [
        (
            1,
            {
                "text": "a",
                "list": ["x", "y"],
                "probes": [{"kind": "k"}],
                "object": {"s": "t"},
                "empty": None,
                "nan": None,
                "number": "007",
                "bracket": "[sic] yes",
            },
        )
    ]


def test_parquet_is_read_over_batches_with_nulls(save: Save) -> None:
    records = [{"prompt": f"p{i}", "extra": None if i % 2 else "e"} for i in range(2500)]
    assert [r for _, r in read_records(save("r.parquet", records))] == records


def test_reading_stops_where_the_reader_stops(save: Save) -> None:
    path = save("r.jsonl", '{"a": 1}\n{"a": 2}\nbroken\n')
    records = read_records(path)
    assert [next(records)[0], next(records)[0]] == [1, 2]
    with pytest.raises(InputError):
        next(records)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}{suffix}"
        with path.open("w") as file:
            separator = "\n" if suffix == ".jsonl" else ",\n"
            file.write("[" if suffix == ".json" else "")
            for i in range(count):
                record = {"prompt": f"Who minds lighthouse {i}?", "target": f"Keeper {i}"}
                file.write((separator if i else "") + json.dumps(record))
            file.write("]" if suffix == ".json" else "")
        assert path.stat().st_size > 50 * count
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_records(path)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is allocated once: codecs, compiled patterns
    small, large = peak(20_000), peak(100_000)
    assert large < small + 200_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.jsonl", "", "holds no records"),
        ("r.json", "", "holds no records"),
        ("r.json", "[]", "holds no records"),
        ("r.csv", "", "holds no records"),
        ("r.csv", "prompt,target\n", "holds no records"),
        ("r.txt", "x", "unknown suffix '.txt'; known are .jsonl, .json, .csv, .parquet"),
        ("r.gz", "x", "unknown suffix '.gz'"),
        ("r.txt.gz", "x", "unknown suffix '.txt.gz'"),
        ("records", "x", "no suffix; known are"),
        ("r.jsonl", '{"a": 1}\n{"a": 1\n', "record 2: malformed JSON"),
        ("r.jsonl", '{"a": 1}\n\n{"a": 1} x\n', "record 2: malformed JSON"),
        ("r.jsonl", "[\n", "record 1: malformed JSON"),
        ("r.jsonl", "[1, 2]\n", "record 1: is a list, not an object"),
        ("r.jsonl", '{"a": 1}\n"text"\n', "record 2: is text, not an object"),
        ("r.jsonl", "null\n", "record 1: is null, not an object"),
        ("r.jsonl", "true\n", "record 1: is true or false, not an object"),
        ("r.jsonl", '{"a": ' + "[" * 200_000 + "\n", "record 1: malformed JSON"),
        ("r.json", '[{"a": 1}, 7]', "record 2: is a number, not an object"),
        ("r.json", '[{"a": 1}, {"a"}]', "record 2: malformed JSON"),
        ("r.json", '[{"a": 1}] x', "r.json: has more text"),
        ("r.json", "prompt", "neither a list of records nor objects"),
        ("r.csv", "a,b\n1,2\n1,2,3\n", "record 2: has 3 cells, the header has 2"),
        ("r.csv", "a,b\n1\n", "record 1: has 1 cells, the header has 2"),
        ("r.csv", "a,,b\n1,2,3\n", "the first row is no header"),
        ("r.csv", "a,a\n1,2\n", "the first row is no header"),
        ("r.csv", 'a,b\n1,"2\n', "record 1: malformed CSV"),
        ("r.csv", "a,b\n1,\"['x', 'y']\"\n", "record 1, field 'b': looks like a list"),
        ("r.csv", 'a,b\n1,"[""x"", y]"\n', "record 1, field 'b': looks like a list"),
        ("r.parquet", b"", "cannot be read as parquet"),
        ("r.parquet", b"PAR1 but no more PAR1", "cannot be read as parquet"),
        ("r.jsonl", b'{"a": "b"}\n{"t": "caf\xe9"}\n', "record 2, field 't': is not UTF-8"),
        ("r.jsonl", b'{"t": [{"x": "caf\xe9"}]}\n', "record 1, field 't': is not UTF-8"),
        ("r.jsonl", b'{"caf\xe9": 1}\n', "record 1, field 'caf\\udce9': is not UTF-8"),
        ("r.jsonl", '{"a": "\\ud83d"}\n', "record 1, field 'a': is not UTF-8"),
        ("r.json", b'[{"t": "caf\xe9"}]', "record 1, field 't': is not UTF-8"),
        ("r.csv", b"t\ncaf\xe9\n", "record 1, field 't': is not UTF-8"),
        ("r.jsonl", '{"a": 1}'.encode("utf-16"), "record 1: is not UTF-8 text"),
        ("r.jsonl.gz", b"not packed", "cannot be read"),
        ("r.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-12], "cannot be read"),
    ],
)
def test_broken_files(save: Save, name: str, content: str | bytes, said: str) -> None:
    path = save(name, content)
    with pytest.raises(InputError) as caught:
        list(read_records(path))
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert said in line
    assert "\n" not in line
    assert len(line) < 700
    assert caught.value.exit_code == 2


def test_a_missing_file_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        read_records(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="is a folder, not a file"):
        read_records(tmp_path)


def test_a_parquet_file_with_broken_pages_gives_no_traceback(save: Save) -> None:
    path = save("r.parquet", [{"prompt": f"prompt {i}", "target": "t" * 50} for i in range(500)])
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as parquet"):
        list(read_records(path))


def test_hub_data_sets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, bool]] = []

    def load_dataset(name: str, *, split: str, streaming: bool) -> list[dict[str, str]]:
        asked.append((name, split, streaming))
        return [{"prompt": "p"}, {"prompt": "q"}]

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setattr(formats.importlib, "import_module", {"datasets": fake}.__getitem__)
    assert list(read_records("hf:team/facts")) == [(1, {"prompt": "p"}), (2, {"prompt": "q"})]
    assert len(list(read_records("hf:facts:test"))) == 2
    assert asked == [("team/facts", "train", True), ("facts", "test", True)]


def test_a_local_folder_through_datasets(save: Save) -> None:
    pytest.importorskip("datasets")
    path = save("train.jsonl", [{"prompt": "p", "target": ["t"]}, {"prompt": "q", "target": None}])
    source = f"hf:{path.parent}"
    records = [record for _, record in read_records(source)]
    assert records == [{"prompt": "p", "target": ["t"]}, {"prompt": "q", "target": None}]
    with pytest.raises(InputError, match=r"cannot be read through datasets \(ValueError: .*test"):
        list(read_records(f"{source}:test"))


def test_hub_source_without_a_name() -> None:
    with pytest.raises(InputError, match="names no data set"):
        read_records("hf::train")


@pytest.mark.parametrize(
    ("source", "package"), [("r.parquet", "pyarrow"), ("hf:facts", "datasets")]
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, save: Save, source: str, package: str
) -> None:
    def missing(name: str) -> ModuleType:
        raise ImportError(name)

    file = save("r.parquet", b"PAR1")
    monkeypatch.setattr(formats.importlib, "import_module", missing)
    with pytest.raises(InputError, match=f"pip install {package}"):
        list(read_records(file if source == "r.parquet" else source))
