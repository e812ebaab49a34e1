import pytest
import yaml

from ultraedit import InputError
from ultraedit.ability.records import LAYOUTS
from ultraedit.ability.sources import READY_MADE, Source, find, ready_made, task_config


def test_the_published_tasks_are_ready_made():
    asked = "arc_easy arc_challenge piqa openbook_qa boolq winogrande lambada_openai"
    assert {*asked.split(), "triviaqa_sm_sub", "gsm8k", "mmlu"} == set(ready_made())


@pytest.mark.parametrize("name", ready_made())
def test_ready_made_files_say_what_they_are(name):
    config = yaml.safe_load((READY_MADE / f"{name}.yaml").read_text())
    assert config["task"] == name
    assert config["dataset_kwargs"]["data_files"] == {config["test_split"]: f"{name}.jsonl"}
    assert config["metadata"]["layout"] in LAYOUTS
    assert config["fewshot_split"] == config["test_split"], "shots come from the same file"


def test_data_files_are_found_at_any_depth(data):
    found = find(["winogrande", " gsm8k", "hellaswag", "piqa"], data)
    assert found == [
        Source("winogrande", data / "deep" / "winogrande.jsonl"),
        Source("gsm8k", data / "gsm8k.jsonl"),
        Source("hellaswag"),
        Source("piqa"),
    ]
    assert find(["winogrande"], None) == [Source("winogrande")]


def test_a_file_in_the_folder_itself_goes_first(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "piqa.jsonl").write_text("{}")
    with pytest.raises(InputError, match="holds piqa.jsonl twice"):
        find(["piqa"], tmp_path)
    (tmp_path / "piqa.jsonl").write_text("{}")
    assert find(["piqa"], tmp_path)[0].file == tmp_path / "piqa.jsonl"


@pytest.mark.parametrize(
    ("names", "match"),
    [([], "at least one"), ([" ", ""], "at least one"), (["piqa", "piqa"], "piqa is named twice")],
)
def test_names_are_checked(names, match):
    with pytest.raises(InputError, match=match):
        find(names, None)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        find(["piqa"], tmp_path / "missing")


def test_a_configuration_holds_its_records(data):
    config = task_config(find(["openbook_qa"], data)[0])
    assert "dataset_path" not in config
    assert len(config["custom_dataset"](anything="ignored")["test"]) == 10
