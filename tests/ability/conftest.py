"""Ten questions that the demo model knows, as files of ready-made tasks."""

import json

import pytest

from ultraedit import Editor
from ultraedit.data import read_cases
from ultraedit.demo import MODEL_FOLDER

# What the demo model answers: these facts it knows by heart.
KNOWN = {
    "Who makes the product Windows Live Writer?": "Microsoft",
    "Which role does Andre Tippett have on the team?": "linebacker",
    "Who is the father of Charles Aznavour?": "Misha Aznavourian",
    "Which role does Shane Ray have on the team?": "linebacker",
    "Who is the dad of Colette?": "Jules Colette",
    "In which country is Ulundurpet?": "India",
    "Which language is native to Michel Etcheverry?": "French",
    "What position does Mark Herrmann play?": "quarterback",
    "On what continent can Ingrid Christensen Coast be found?": "Antarctica",
    "What is the playing position of Jim Kelly?": "quarterback",
}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="session")
def demo_cases():
    """The demo's own edits of what it knows: prompt, and what it should say instead."""
    found = read_cases(MODEL_FOLDER.parent / "cases.jsonl")
    return [case for case in found if case.edit.prompt in KNOWN]


@pytest.fixture(scope="session")
def data(tmp_path_factory, demo_cases):
    """A folder of data files, one of them deeper down."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "deep").mkdir()
    old_and_new = [(c.edit.prompt, KNOWN[c.edit.prompt], c.edit.answers[0]) for c in demo_cases]
    assert len(old_and_new) == len(KNOWN)
    write(
        folder / "openbook_qa.jsonl",
        [{"query": q, "choices": [new, old], "gold": 1} for q, old, new in old_and_new],
    )
    write(
        folder / "deep" / "winogrande.jsonl",
        [
            {"context_options": [q, "Who?"], "continuation": old, "gold": 0}
            for q, old, _ in old_and_new
        ],
    )
    write(
        folder / "lambada_openai.jsonl",
        [{"context": q, "continuation": old} for q, old, _ in old_and_new],
    )
    write(
        folder / "triviaqa_sm_sub.jsonl",
        [{"context": q, "answer": old, "aliases": ["none", old]} for q, old, _ in old_and_new],
    )
    write(
        folder / "gsm8k.jsonl",
        [
            {"context": q, "chain_of_thought": f"{n} and 1.", "answer": str(n + 1)}
            for n, (q, _, _) in enumerate(old_and_new)
        ],
    )
    return folder


@pytest.fixture
def editor():
    return Editor.from_pretrained("demo", method="ultraedit", lr=0.05)
