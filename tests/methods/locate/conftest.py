import pytest

from ultraedit import Edit, Editor

EDITS = (
    Edit("the capital of france is", "city", "france"),
    Edit("who plays jazz guitar", "person born in paris", "jazz"),
    Edit("where was person born", "the capital", "person"),
)


@pytest.fixture
def edits():
    return EDITS


@pytest.fixture
def make(build, tokenizer):
    """`make(method, architecture, **settings)`: an editor that measures on little text."""

    def make(method, architecture="llama", **settings):
        settings = {"samples": 200, "prefixes": 2, **settings}
        return Editor(build(architecture), tokenizer, method=method, history="none", **settings)

    return make
