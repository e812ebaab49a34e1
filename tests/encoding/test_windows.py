import pytest

from ultraedit.encoding.windows import windows


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the capital of france is paris\n" * 30, encoding="utf-8")
    return path


def test_windows_are_the_files_tokens(text, tokenizer):
    whole = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    pieces = list(windows(text, tokenizer, 16, 10**6))
    assert [token for piece in pieces for token in piece] == whole
    assert all(len(piece) == 16 for piece in pieces[:-1])


def test_the_limit_counts_tokens(text, tokenizer):
    assert sum(map(len, windows(text, tokenizer, 16, 40))) == 40
