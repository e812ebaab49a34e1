import pytest

from ultraedit import Edit, Editor

EDITS = (
    Edit("the capital of france is", "city", id="a"),
    Edit("who plays jazz guitar", "person born", id="b"),
    Edit("where was person born", "the capital", id="c"),
)


@pytest.fixture
def edits():
    return EDITS


@pytest.fixture
def make(build, tokenizer):
    def make(architecture="llama", **settings):
        settings = {"history": "none", **settings}
        return Editor(build(architecture), tokenizer, method="wise", **settings)

    return make
