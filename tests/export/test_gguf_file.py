import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from tiny_gguf import write_tiny
from ultraedit import InputError, UltraEditError
from ultraedit.export.gguf_file import (
    Replacement,
    check_replaced,
    opened,
    quantised,
    write_replaced,
)

NAME = "blk.2.ffn_down.weight"


@pytest.fixture
def base(tokenizer, tmp_path):
    return write_tiny(tmp_path / "base.gguf", tokenizer)


def replacement(kind="F16", seed=3):
    weight = np.random.default_rng(seed).normal(size=(32, 64)).astype(np.float32)
    kind = GGMLQuantizationType[kind]
    return Replacement(kind, quantised(weight, kind))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_only_the_tensor_and_the_added_key_differ(base, tmp_path, kind):
    new = replacement(kind)
    target = tmp_path / "new.gguf"
    write_replaced(base, target, {NAME: new}, {"ultraedit.edits": "four ✓"})
    before, after = GGUFReader(base), GGUFReader(target)
    assert after.fields["ultraedit.edits"].contents() == "four ✓"
    own = [name for name in after.fields if not name.startswith(("GGUF.", "ultraedit"))]
    assert own == [name for name in before.fields if not name.startswith("GGUF.")]
    for name in own:
        assert before.fields[name].contents() == after.fields[name].contents()
    for old, one in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, list(old.shape)) == (one.name, list(one.shape))
        assert int(one.data_offset) % 32 == 0
        if one.name == NAME:
            assert one.tensor_type.name == kind
            assert np.array_equal(one.data.view(np.uint8), new.data.view(np.uint8))
        else:
            assert one.data.tobytes() == old.data.tobytes()
    # Written again, the key of before is replaced.
    write_replaced(target, tmp_path / "twice.gguf", {NAME: new}, {"ultraedit.edits": "five"})
    assert GGUFReader(tmp_path / "twice.gguf").fields["ultraedit.edits"].contents() == "five"


def test_the_same_tensor_gives_the_same_bytes(base, tmp_path):
    held = next(tensor for tensor in GGUFReader(base).tensors if tensor.name == NAME)
    same = {NAME: Replacement(held.tensor_type, np.array(held.data))}
    write_replaced(base, tmp_path / "new.gguf", same, {})
    assert (tmp_path / "new.gguf").read_bytes() == base.read_bytes()


def test_a_difference_is_found(base, tmp_path):
    target = tmp_path / "new.gguf"
    write_replaced(base, target, {NAME: replacement()}, {})
    check_replaced(base, target, {NAME}, set())
    content = bytearray(target.read_bytes())
    reader = GGUFReader(target)
    other = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_up.weight")
    note = reader.fields["note"]
    for place in (int(other.data_offset), int(note.offset) + 30):
        damaged = content.copy()
        damaged[place] ^= 1
        target.write_bytes(damaged)
        with pytest.raises(UltraEditError, match="not written right"):
            check_replaced(base, target, {NAME}, set())
    with pytest.raises(UltraEditError):
        check_replaced(base, target, set(), set())


def test_what_cannot_be_is_one_line(base, tmp_path):
    with pytest.raises(InputError, match=r"no tensor blk\.9"):
        write_replaced(base, tmp_path / "a", {"blk.9.ffn_down.weight": replacement()}, {})
    weight = np.ones((4, 64), np.float32)
    with pytest.raises(InputError, match="cannot write Q4_K"):
        quantised(np.ones((4, 256), np.float32), GGMLQuantizationType.Q4_K)
    with pytest.raises(InputError, match="rows of 33 cannot be Q8_0"):
        quantised(weight[:, :33], GGMLQuantizationType.Q8_0)
    with pytest.raises(InputError, match="no such file"):
        opened(tmp_path / "none.gguf")
    (tmp_path / "other.gguf").write_text("other")
    with pytest.raises(InputError, match="no GGUF file"):
        opened(tmp_path / "other.gguf")
