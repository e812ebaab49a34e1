import pytest
import torch

from ultraedit import InputError
from ultraedit.storage.trained import Trained

TRAINED = Trained.of(
    "mend", {"step": 0.5, "names": ("a", "b")}, {"one": (3, 4)}, {"scale": torch.tensor(2.0)}
)


def test_it_comes_back_as_it_was(tmp_path):
    TRAINED.write(tmp_path / "trained.safetensors")
    found = Trained.read(tmp_path / "trained.safetensors")
    assert (found.method, found.shapes) == ("mend", {"one": (3, 4)})
    assert torch.equal(found.state["scale"], TRAINED.state["scale"])
    assert found.digest == TRAINED.digest
    found.check_fits(TRAINED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("rome", TRAINED.settings, TRAINED.shapes), "method mend, not rome"),
        (("mend", {"step": 1.0}, TRAINED.shapes), "settings"),
        (("mend", TRAINED.settings, {"one": (4, 4)}), "shapes"),
    ],
)
def test_for_something_else_it_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        TRAINED.check_fits(Trained.of(*given, {}))


@pytest.mark.parametrize("content", [None, b"", b"something else", b"\x08\0\0\0\0\0\0\0{}      "])
def test_other_files_are_one_line(tmp_path, content):
    path = tmp_path / "trained.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="trained.safetensors") as caught:
        Trained.read(path)
    assert "\n" not in str(caught.value)


def test_other_content_has_another_digest():
    other = Trained(
        TRAINED.method, TRAINED.settings, TRAINED.shapes, {"scale": torch.tensor(2.0).double()}
    )
    assert other.digest != TRAINED.digest
