import gzip

import pyarrow
import pytest
from pyarrow import parquet

from ultraedit import InputError
from ultraedit.benchmark_data import triples
from ultraedit.benchmark_data.facts import Fact
from ultraedit.benchmark_data.triples import Source
from ultraedit.progress import no_progress

ROWS = [("Ada Lovelace", "P19", "London"), ("Hamlet", "author", "Shakespeare")]


def read(path, **given):
    source = Source.of(path, **given)
    return [fact for batch in source.batches(no_progress) for fact in batch]


@pytest.fixture
def wikidata(tmp_path):
    """A folder in Wikidata5M's layout."""
    (tmp_path / "wikidata5m_transductive_train.txt").write_text(
        "Q7259\tP19\tQ84\nQ41567\tP50\tQ692\nQ1\tP50\tQ692\nQ7259\tP7\tQ84\n"
    )
    entities = "Q84\tLondon\tLondon, UK\nQ7259\tAda Lovelace\nQ692\tShakespeare\nQ41567\tHamlet\n"
    (tmp_path / "wikidata5m_entity.txt.gz").write_bytes(gzip.compress(entities.encode()))
    (tmp_path / "wikidata5m_relation.txt").write_text("P19\tplace of birth\tborn in\nP50\tauthor\n")
    return tmp_path


def test_wikidata5m_is_read_by_its_names(wikidata):
    assert read(wikidata) == [
        Fact("Ada Lovelace", "P19", "London", "place of birth"),
        Fact("Hamlet", "P50", "Shakespeare", "author"),
        Fact("", "P50", "Shakespeare", "author"),
        Fact("Ada Lovelace", "P7", "London", ""),
    ]
    source = Source.of(wikidata)
    assert source.size() == 4
    assert source.entities.name == "wikidata5m_entity.txt.gz"
    assert read(source.path, entities=source.entities, relations=source.relations) == read(wikidata)


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_tables(tmp_path, name):
    path = tmp_path / name
    if "parquet" in name:
        columns = list(zip(*ROWS, strict=True))
        content = {"object": columns[2], "subject": columns[0], "relation": columns[1]}
        parquet.write_table(pyarrow.table(content), path)
    else:
        mark = "," if "csv" in name else "\t"
        lines = [("split", "object", "subject", "relation")] + [("x", o, s, r) for s, r, o in ROWS]
        content = "".join(mark.join(line) + "\r\n" for line in lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(path) == [Fact(*row) for row in ROWS]
    assert Source.of(path).size() == 2


def test_of_a_mapping_the_chosen_name_counts(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(
        "subject\trelation\tobject\n"
        "a\tP1\t{'alternative': ['b'], 'chosen': 'The B'}\na\tP2\t{oops}\na\tP3\t{'x': 1}\n"
    )
    assert [fact.object for fact in read(path)] == ["The B", "{oops}", "{'x': 1}"]


def test_batches_do_not_change_what_is_read(wikidata, monkeypatch):
    whole = read(wikidata)
    monkeypatch.setattr(triples, "BATCH", 2)
    assert [len(batch) for batch in Source.of(wikidata).batches(no_progress)] == [2, 2]
    assert read(wikidata) == whole


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", "subject\tobject\n", "no column 'relation'"),
        ("a.tsv", "Q1\tP1\tQ2\n", "need --entities"),
        ("a.tsv", "", "no column 'subject'"),
        ("a.tsv", "subject\trelation\tobject\na\tb\n", "line 2: 2 columns"),
        ("a.csv", 'subject,relation,object\n"a,b', "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read as parquet"),
        ("a.json", "[]", "known are"),
        ("a.tsv.gz", "no gzip", "cannot be read"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path, wikidata):
    with pytest.raises(InputError, match="no such file"):
        Source.of(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="both"):
        Source.of(
            wikidata / "wikidata5m_transductive_train.txt", wikidata / "wikidata5m_relation.txt"
        )
    (wikidata / "wikidata5m_relation.txt").unlink()
    with pytest.raises(InputError, match="wikidata5m_relation"):
        Source.of(wikidata)


def test_a_line_without_an_id_is_named(wikidata):
    (wikidata / "wikidata5m_relation.txt").write_text("P19\tborn in\noops\tx\n")
    with pytest.raises(InputError, match="relation.txt, line 2"):
        read(wikidata)
