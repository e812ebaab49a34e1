"""The published procedure's own weights, turn by turn (arXiv:2505.14679)."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ultraedit import Edit, Editor
from ultraedit.models.load import load

ORACLES = Path(__file__).parents[1] / "oracles"


def open_oracle(name, **options):
    folder = ORACLES / name
    oracle = json.loads((folder / "oracle.json").read_text())
    model, tokenizer = load(folder / "model", device="cpu")
    editor = Editor(
        model,
        tokenizer,
        modules=oracle["modules"],
        lr=oracle["lr"],
        ridge=oracle["ridge"],
        method="ultraedit",
        append_eos=oracle["append_eos"],
        **{"tokenization": "published", **options},
    )
    return editor, oracle, load_file(folder / "expected.safetensors")


def shift_errors(editor, oracle, expected):
    """Relative error of every module's shift in every turn."""
    errors = {}
    for number, turn in enumerate(oracle["turns"], 1):
        before = {
            name: editor.model.get_submodule(name).weight.detach().clone()
            for name in oracle["modules"]
        }
        editor.edit([Edit(**edit) for edit in turn])
        for name in oracle["modules"]:
            weight = editor.model.get_submodule(name).weight.detach()
            # Each turn is compared with the published weights after the turn before it.
            start = expected.get(f"turn{number - 1}.{name}.weight", before[name])
            published = expected[f"turn{number}.{name}.weight"] - start
            ours = weight - before[name]
            errors[number, name] = float((ours - published).norm() / published.norm())
    return errors


@pytest.mark.parametrize("name", ["llama-one-module", "llama-three-modules"])
@pytest.mark.parametrize("options", [{}, {"batch_tokens": 40}, {"tokenization": "joint"}])
def test_every_shift_is_the_published_one(name, options):
    errors = shift_errors(*open_oracle(name, **options))
    assert len(errors) == 3 * (1 if name == "llama-one-module" else 3)
    assert max(errors.values()) < 1e-3, errors
