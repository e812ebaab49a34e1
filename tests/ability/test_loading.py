"""Names to tasks; the harness's list of its own tasks takes seconds, so it is read once."""

import sys

import pytest

from ultraedit import InputError
from ultraedit.ability import Harness, loading, open_harness
from ultraedit.ability.sources import Source

YAML = """
task: known_facts
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """Task files of a user's own, one of which is broken and one of which groups others."""
    folder = tmp_path_factory.mktemp("tasks")
    text = YAML.replace("FILE", str(data / "openbook_qa.jsonl"))
    (folder / "known.yaml").write_text(text)
    (folder / "more.yaml").write_text(text.replace("known_facts", "more_facts"))
    (folder / "piqa.yaml").write_text(text.replace("known_facts", "piqa"))
    (folder / "all.yaml").write_text("group: all_facts\ntask: [known_facts, more_facts]\n")
    (folder / "no_target.yaml").write_text(
        text.replace("known_facts", "no_target").replace("doc_to_target: gold", "")
    )
    (folder / "broken.yaml").write_text("task: [broken\n")
    return folder


@pytest.fixture(scope="module")
def manager(folder):
    """Knows the folder and all of the harness's own tasks."""
    return loading.task_manager([Source("hellaswag")], folder)


def test_task_files_need_no_list_of_the_harness(folder):
    own = loading.task_manager([Source("known_facts")], folder)
    assert "hellaswag" not in own.task_index
    harness = open_harness(["known_facts", "piqa"], data=folder)
    assert harness.sources == {
        "known_facts": str(folder / "known.yaml"),
        "piqa": str(folder / "piqa.yaml"),
    }
    assert harness.members == {"known_facts": ["known_facts"], "piqa": ["piqa"]}


def test_a_folders_task_goes_before_the_harness_own(manager, folder):
    assert loading.place_of(Source("piqa"), manager, folder) == str(folder / "piqa.yaml")
    assert loading.place_of(Source("hellaswag"), manager, folder) == "lm-eval"


def test_groups_hold_their_tasks(manager, folder, editor):
    loaded = loading.load(Source("all_facts"), manager, "here", folder)
    assert list(loaded["tasks"]) == ["known_facts", "more_facts"]
    assert list(loaded["groups"]) == ["all_facts"]
    harness = Harness(loaded, {"all_facts": list(loaded["tasks"])}, {})
    found = harness.score(editor.model, editor.tokenizer, limit=3)
    assert [(score.task, score.count) for score in found] == [
        ("all_facts", 6), ("known_facts", 3), ("more_facts", 3),
    ]  # fmt: skip
    assert found[0].value == found[1].value == 1


def test_a_name_that_nobody_knows(manager, folder):
    with pytest.raises(InputError, match="no task hellaswagg; close to it: hellaswag"):
        loading.place_of(Source("hellaswagg"), manager, folder)
    with pytest.raises(InputError, match=r"broken\.yaml is no task file"):
        loading.place_of(Source("broken"), manager, folder)


def test_a_ready_made_task_without_its_file(manager, folder):
    with pytest.raises(InputError, match=r"holds no openbook_qa\.jsonl"):
        loading.place_of(Source("openbook_qa"), manager, folder)
    with pytest.raises(InputError, match=r"--data DIR, with openbook_qa\.jsonl in it"):
        loading.place_of(Source("openbook_qa"), manager, None)


def test_no_hub_is_one_line(manager, folder):
    with pytest.raises(InputError, match="task hellaswag of lm-eval needs a data set") as caught:
        loading.load(Source("hellaswag"), manager, "lm-eval", folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"a local file would be .*gsm8k\.jsonl with --data"):
        loading.load(Source("gsm8k"), manager, "lm-eval", None)


def test_a_task_file_that_lacks_something(folder):
    with pytest.raises(InputError, match="task no_target .* could not be loaded") as caught:
        open_harness(["no_target"], data=folder)
    assert "\n" not in str(caught.value)


def test_an_empty_data_file(tmp_path):
    (tmp_path / "arc_easy.jsonl").write_text("")
    with pytest.raises(InputError, match=r"arc_easy\.jsonl: holds no records"):
        open_harness(["arc_easy"], data=tmp_path)


def test_the_missing_extra_is_named(monkeypatch, data):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ultraedit\[eval\]'"):
        open_harness(["openbook_qa"], data=data)


def test_a_harness_that_cannot_be_imported(monkeypatch, data):
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(InputError, match=r"cannot be used .*pip install 'ultraedit\[eval\]'"):
        open_harness(["openbook_qa"], data=data)
