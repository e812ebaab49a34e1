"""Folders with tiny models, for what is loaded from files."""

import pytest
import torch


@pytest.fixture
def save_base(build, tokenizer, tmp_path):
    """`save_base(architecture, dtype)`: a folder with a tiny model."""

    def save(architecture, dtype=torch.float32, **changes):
        folder = tmp_path / "base"
        build(architecture, **changes).to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save
